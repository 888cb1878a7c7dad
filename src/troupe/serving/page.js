"use strict";
// Asks every model for the same prompt and shows what they write, as it comes.

const at = (id) => document.getElementById(id);
let writing = null; // what stops the answers under way

async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) at("secret").hidden = false;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `status ${response.status}`);
}

async function* events(response) {
  const decoder = new TextDecoder();
  let text = "";
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function place(name) {
  const article = document.createElement("article");
  article.id = `of-${name}`;
  const [title, text, note] = ["h2", "pre", "div"].map((tag) => document.createElement(tag));
  title.textContent = name;
  note.className = "note";
  article.append(title, text, note);
  at("models").append(article);
}

async function write(name, asked, signal) {
  const [text, note] = ["pre", ".note"].map((part) => at(`of-${name}`).querySelector(part));
  const prompt = document.createElement("b");
  prompt.textContent = asked.prompt;
  text.replaceChildren(prompt);
  note.textContent = "";
  note.removeAttribute("role");
  const began = performance.now();
  try {
    const body = { ...asked, model: name, stream: true, stream_options: { include_usage: true } };
    const response = await ask("v1/completions", { method: "POST", body: JSON.stringify(body), signal });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) text.append(choice.text);
      if (event.usage) {
        const seconds = (performance.now() - began) / 1000;
        note.textContent = `${event.usage.completion_tokens} tokens in ${seconds.toFixed(2)} s`;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") {
      note.textContent = "stopped";
      return;
    }
    note.textContent = error.message;
    note.setAttribute("role", "alert");
  }
}

async function list() {
  const response = await ask("v1/models");
  const names = (await response.json()).data.map((model) => model.id);
  at("models").replaceChildren();
  names.forEach(place);
  return names;
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  writing?.abort();
  const own = (writing = new AbortController());
  const asked = { prompt: at("prompt").value };
  for (const name of ["max_tokens", "temperature", "top_p", "seed"])
    if (at(name).value !== "") asked[name] = Number(at(name).value);
  at("stop").disabled = false;
  at("status").textContent = "";
  try {
    const names = await list();
    await Promise.all(names.map((name) => write(name, asked, own.signal)));
  } catch (error) {
    at("status").textContent = error.message;
  }
  if (writing === own) at("stop").disabled = true;
});

at("stop").addEventListener("click", () => writing?.abort());
list().catch((error) => (at("status").textContent = error.message));
