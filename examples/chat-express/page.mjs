// The page: it says what it has to say to the server as an event, and shows what the server tells the lobby.
import { WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";

const [state, enter, say, messages, present] = ["state", "enter", "say", "messages", "present"].map((id) =>
  document.getElementById(id),
);
let client;

function show(who, text) {
  const name = document.createElement("b");
  name.textContent = who; // text, never HTML: others wrote it
  const line = document.createElement("li");
  line.append(name, text);
  messages.append(line);
  line.scrollIntoView({ block: "nearest" });
}

function told(message) {
  if (message.present) present.textContent = `Here: ${message.present.join(", ")}`;
  if (message.kind === "said") show(message.who, message.text);
  if (message.kind === "joined") show(message.who, "joined");
  if (message.kind === "left") show(message.who, "left");
  if (message.kind === "note") state.title = message.text;
}

enter.addEventListener("submit", async (event) => {
  event.preventDefault();
  const user = new FormData(enter).get("user");
  const getClientAccessUrl = async () => {
    const answer = await fetch(`/sign-in?user=${encodeURIComponent(user)}`, { method: "POST" });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.text();
  };
  client = new WebPubSubClient({ getClientAccessUrl }, { protocol: WebPubSubJsonProtocol() });
  client.on("connected", () => (state.textContent = `Connected as ${user}.`));
  client.on("disconnected", () => (state.textContent = "Connecting again ..."));
  client.on("stopped", () => (state.textContent = "The connection has ended; load the page again."));
  client.on("group-message", ({ message }) => told(message.data));
  client.on("server-message", ({ message }) => told(message.data));
  try {
    state.textContent = "Connecting ...";
    await client.start();
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
    await client.sendEvent("say", { text: field.value }, "json");
    field.value = "";
  } catch (error) {
    state.textContent = `Not said: ${error.message}`;
  }
});
