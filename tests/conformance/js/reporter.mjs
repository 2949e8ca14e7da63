// One JSON object a line for each test, for test_javascript.py.

export default async function* reporter(source) {
  for await (const { type, data } of source) {
    if (type === "test:pass" || type === "test:fail") {
      const error = data.details?.error;
      const why = error?.cause?.stack ?? error?.cause ?? error?.stack ?? "";
      yield JSON.stringify({ name: data.name, file: data.file, passed: type === "test:pass", why: String(why) }) + "\n";
    }
  }
}
