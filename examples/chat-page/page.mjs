// The page: the vendor's client in the browser. It knows one thing: where to ask for its URL.
import { WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";

const [state, enter, say, messages] = ["state", "enter", "say", "messages"].map((id) =>
  document.getElementById(id),
);

function show(who, text) {
  const name = document.createElement("b");
  name.textContent = who; // text, never HTML: others wrote it
  const line = document.createElement("li");
  line.append(name, text);
  messages.append(line);
  line.scrollIntoView({ block: "nearest" });
}

let client;

enter.addEventListener("submit", async (event) => {
  event.preventDefault();
  const user = new FormData(enter).get("user");
  const getClientAccessUrl = async () => {
    const answer = await fetch(`/client-url?user=${encodeURIComponent(user)}`, { method: "POST" });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.text();
  };
  client = new WebPubSubClient({ getClientAccessUrl }, { protocol: WebPubSubJsonProtocol() });
  client.on("connected", () => (state.textContent = `Connected as ${user}.`));
  client.on("disconnected", () => (state.textContent = "Connecting again ..."));
  client.on("stopped", () => (state.textContent = "The connection has ended; load the page again."));
  // The service says who wrote it, from the token: nobody can speak for another.
  client.on("group-message", ({ message }) => show(message.fromUserId, message.data));
  try {
    state.textContent = "Connecting ...";
    await client.start();
    await client.joinGroup("lobby"); // after a lost connection the client joins again by itself
    enter.hidden = true;
    say.hidden = false;
    say.elements.text.focus();
  } catch (error) {
    state.textContent = `It did not work: ${error.message}`;
  }
});

say.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = say.elements.text;
  try {
    await client.sendToGroup("lobby", field.value, "text");
    field.value = "";
  } catch (error) {
    state.textContent = `Not sent: ${error.message}`;
  }
});
