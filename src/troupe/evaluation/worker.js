"use strict";
// Runs in a Web Worker beside tokenizer.js and transformer.js, so that the page stays responsive while it computes.
// The page sends {model, tokenizer} once, then {run, prompt, count, temperature, seed} or {stop: true}; it is sent
// {run, text, ids} as tokens come and {run, done: true} at the end, or {run, error}.

const SLICE = 30; // milliseconds of computing between two looks at the messages that have come

let model = null;
let tokenizer = null;
let current = 0; // the number of the run under way; another number ends it

async function write({ run, prompt, count, temperature, seed }) {
  current = run;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let written = [];
  let since = performance.now();
  for (const id of generate(model, tokenizer.encode(prompt), count, temperature, randomNumbers(seed))) {
    if (id === tokenizer.endId) break;
    written.push(id);
    if (performance.now() - since < SLICE) continue;
    postMessage({ run, text: decoder.decode(tokenizer.bytes(written), { stream: true }), ids: written });
    written = [];
    await new Promise((resume) => setTimeout(resume));
    if (run !== current) return;
    since = performance.now();
  }
  postMessage({ run, text: decoder.decode(tokenizer.bytes(written)), ids: written });
  postMessage({ run, done: true });
}

onmessage = async ({ data }) => {
  try {
    if (data.model) {
      model = new Transformer(data.model);
      tokenizer = new Tokenizer(data.tokenizer);
    } else if (data.stop) {
      current = 0;
    } else {
      await write(data);
    }
  } catch (error) {
    postMessage({ run: data.run, error: String(error) });
  }
};
