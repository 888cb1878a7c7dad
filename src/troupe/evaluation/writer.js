"use strict";
// The page's side of the model that writes in it: the form, and a Web Worker (worker.js) made from this page's own text.

const at = (id) => document.getElementById(id);
const embedded = JSON.parse(at("embedded").textContent);
let worker = null; // made when it is first needed: a reader who only reads waits for nothing
let asked = null; // what the run under way was asked for, and what has come of it
let runs = 0;

function start() {
  const source = new Blob([at("worker").textContent], { type: "text/javascript" });
  worker = new Worker(URL.createObjectURL(source));
  worker.onmessage = ({ data }) => asked && (data.run ?? asked.run) === asked.run && receive(data);
  worker.onerror = ({ message }) => fail(message);
  worker.postMessage(embedded.data);
}

function receive({ text, ids, done, error }) {
  if (error) return fail(error);
  if (ids) {
    at("written").append(text);
    asked.ids.push(...ids);
    say(`${asked.ids.length} tokens`);
  }
  if (done) end(`${asked.ids.length} tokens in ${((performance.now() - asked.began) / 1000).toFixed(2)} s${checked()}`);
}

/** Of a greedy text after Python's prompt: whether it is Python's. */
function checked() {
  const { prompt, ids } = embedded.greedy;
  if (asked.prompt !== prompt || asked.temperature !== 0) return "";
  const compared = Math.min(ids.length, asked.ids.length);
  const alike = ids.slice(0, compared).findIndex((id, n) => id !== asked.ids[n]);
  return alike < 0 ? `; the ${compared} that Python wrote are the same` : `; Python wrote another after ${alike}`;
}

function say(note) {
  at("note").textContent = note;
}

function fail(message) {
  end(`this browser cannot compute it: ${message}`);
}

function end(note) {
  say(note);
  asked = null;
  at("stop").disabled = true;
  at("write").disabled = at("check").disabled = false;
}

function write() {
  const number = (id) => at(id).valueAsNumber;
  const prompt = document.createElement("mark");
  prompt.textContent = at("prompt").value;
  at("written").replaceChildren(prompt);
  at("write").disabled = at("check").disabled = true;
  at("stop").disabled = false;
  say("reading the weights");
  const given = { prompt: at("prompt").value, count: number("count"), temperature: number("temperature"), seed: number("seed") };
  asked = { ...given, run: ++runs, ids: [], began: performance.now() };
  if (!worker) start();
  worker.postMessage({ ...given, run: asked.run });
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});

at("check").addEventListener("click", () => {
  at("prompt").value = embedded.greedy.prompt;
  at("count").value = embedded.greedy.ids.length;
  at("temperature").value = 0;
  write();
});

at("stop").addEventListener("click", () => {
  worker.postMessage({ stop: true });
  end(`stopped after ${asked.ids.length} tokens`);
});
