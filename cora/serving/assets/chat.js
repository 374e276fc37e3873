// What is said to the server and what it says: bodies of requests, streams of answers, errors, and the same call for
// other programs. Nothing here touches the page.

// Turns are {role, text}; the panorama stands before the first question.
function messagesOf(turns, picture) {
  return turns.map(({ role, text }, index) => {
    if (index > 0 || !picture) return { role, content: text };
    return { role, content: [{ type: "image_url", image_url: { url: picture } }, { type: "text", text }] };
  });
}

function requestOf(model, turns, picture, maxTokens) {
  return { model, messages: messagesOf(turns, picture), max_tokens: maxTokens, temperature: 0, stream: true };
}

// Takes in pieces of a stream of server-sent events, cut anywhere, and returns the data of those that are whole.
class EventReader {
  constructor() {
    this.rest = "";
  }

  take(piece) {
    const lines = (this.rest + piece).split("\n");
    this.rest = lines.pop();
    return lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
  }
}

// Yields the parts of an answer. Throws what `errorOf` returns, or an error that the stream holds.
async function* answerParts(response) {
  if (!response.ok) throw await errorOf(response);
  const decoder = new TextDecoder();
  const events = new EventReader();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The answer broke off: the server closed the connection.");
    for (const data of events.take(decoder.decode(value, { stream: true }))) {
      if (data === "[DONE]") return;
      const document = JSON.parse(data);
      if (document.error) throw new Error(document.error.message);
      const text = document.choices?.[0]?.delta?.content;
      if (text) yield text;
    }
  }
}

const REASONS = {
  401: "This server wants an API key.",
  413: "The picture is larger than this server takes.",
  429: "The server is busy. Try again in a moment.",
  503: "The server is stopping, or its engine has died.",
};

// Returns an error with the server's own words after ours.
async function errorOf(response) {
  const text = await response.text();
  let said = "";
  try {
    said = JSON.parse(text).error.message;
  } catch {
    said = "";
  }
  const ours = REASONS[response.status] ?? (said ? "" : `The server answered with ${response.status}.`);
  const error = new Error([ours, said && `${said[0].toUpperCase()}${said.slice(1)}`].filter(Boolean).join(" "));
  error.status = response.status;
  return error;
}

function inShell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// JSON for a here-document, in which the shell replaces nothing of the text.
function inDocument(text) {
  return JSON.stringify(text).replaceAll("\\", "\\\\").replaceAll("$", "\\$").replaceAll("`", "\\`");
}

function curlCall({ origin, model, file, question, maxTokens, hasKey }) {
  const picture = `"data:${file.type};base64,$(base64 < ${inShell(file.name)} | tr -d '\\n')"`;
  return [
    `curl ${inShell(`${origin}/v1/chat/completions`)} \\`,
    ...(hasKey ? [`  -H "Authorization: Bearer $CORA_API_KEY" \\`] : []),
    "  -H 'Content-Type: application/json' -d @- <<JSON",
    `{"model": ${inDocument(model)}, "max_tokens": ${maxTokens}, "temperature": 0, "messages": [{"role": "user", "content": [`,
    `  {"type": "image_url", "image_url": {"url": ${picture}}},`,
    `  {"type": "text", "text": ${inDocument(question)}}]}]}`,
    "JSON",
  ].join("\n");
}

// JSON's strings are Python's too.
function pythonCall({ origin, model, file, question, maxTokens, hasKey }) {
  return [
    "import base64",
    ...(hasKey ? ["import os"] : []),
    "",
    "from openai import OpenAI",
    "",
    `with open(${JSON.stringify(file.name)}, "rb") as stream:`,
    "    picture = base64.b64encode(stream.read()).decode()",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${hasKey ? 'os.environ["CORA_API_KEY"]' : '"none"'})`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    `    max_tokens=${maxTokens},`,
    "    temperature=0,",
    '    messages=[{"role": "user", "content": [',
    `        {"type": "image_url", "image_url": {"url": f"data:${file.type};base64,{picture}"}},`,
    `        {"type": "text", "text": ${JSON.stringify(question)}},`,
    "    ]}],",
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}
