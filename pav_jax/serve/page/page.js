// The page of `pav serve`. All texts of users and models are shown through textContent.

import { haveForms, markUnits, sharedWords, showMarked, words } from "./differences.js";
import * as history from "./history.js";
import { clearVideos, showVideos } from "./preview.js";
import { ServerError, ask, hasKey, setKey } from "./server.js";

const MAX_SEED = 2 ** 31 - 1;
const OPTIONAL_NUMBERS = ["max_words", "fidelity"];
const OPTIONAL_CHOICES = ["mode", "language"];
const KINDS = {
  kept: "✓ kept",
  contradicted: "✗ contradicted",
  missing: "? missing",
  added: "+ added",
};

const element = (id) => document.getElementById(id);
let shown = null; // the answer in the result
let running = null; // the AbortController of the request in work

// ------------------------------------------------------------------------------------ messages

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = !message;
  if (message) element("error").scrollIntoView({ block: "nearest" });
}

function showFailure(error) {
  if (error.name === "AbortError") {
    element("status").textContent = "Stopped.";
    return;
  }
  if (!(error instanceof ServerError)) throw error;
  if (error.status === 401) askForKey();
  showError(`Error: ${error.message}`);
}

// ----------------------------------------------------------------------------------------- key

function askForKey() {
  element("key-form").hidden = false;
  element("key").focus();
}

async function loadModels() {
  const select = element("model");
  try {
    const names = (await ask("v1/models")).data.map((model) => model.id);
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    element("key-form").hidden = true;
    element("forget").hidden = !hasKey();
    showError("");
  } catch (error) {
    if (error.status === 401 && !hasKey()) askForKey();
    else showFailure(error);
  }
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(element("key").value.trim());
  element("key").value = "";
  loadModels();
});

element("forget").addEventListener("click", () => {
  setKey("");
  element("forget").hidden = true;
  loadModels();
});

// ---------------------------------------------------------------------------------- the request

function termsToKeep() {
  const lines = element("keep").value.split("\n");
  return lines.map((line) => line.trim()).filter(Boolean);
}

/** What is wrong with the form, in one line, and the field; null if nothing is. */
function findFault() {
  const prompt = element("prompt");
  if (!prompt.value.trim()) return ["Your prompt is empty; write at least one word", prompt];
  const invalid = [...element("form").elements].find((field) => !field.validity.valid);
  if (invalid) return [`${invalid.labels[0].textContent}: ${invalid.validationMessage}`, invalid];
  const unknown = termsToKeep().find((term) => !prompt.value.includes(term));
  if (unknown) return [`Terms to keep: the prompt has no “${unknown}”; write it as there`, element("keep")];
  return null;
}

/** The body of /refine; what is left empty has the server's default. */
function readForm() {
  const body = { prompt: element("prompt").value, seed: Number(element("seed").value) };
  for (const name of ["model", ...OPTIONAL_CHOICES]) {
    if (element(name).value) body[name] = element(name).value;
  }
  for (const name of OPTIONAL_NUMBERS) {
    if (element(name).value) body[name] = Number(element(name).value);
  }
  if (termsToKeep().length) body.keep = termsToKeep();
  return body;
}

function fillForm(body) {
  for (const name of ["prompt", "seed", ...OPTIONAL_NUMBERS, ...OPTIONAL_CHOICES]) {
    element(name).value = body[name] ?? "";
  }
  element("keep").value = (body.keep ?? []).join("\n");
  const names = [...element("model").options].map((option) => option.value);
  if (names.includes(body.model)) element("model").value = body.model;
}

function setBusy(isBusy) {
  for (const id of ["refine", "again"]) element(id).disabled = isBusy;
  element("stop").hidden = !isBusy;
  element("form").setAttribute("aria-busy", String(isBusy));
}

async function refine() {
  if (running) return;
  const fault = findFault();
  if (fault) {
    showError(fault[0]);
    fault[1].closest("details")?.setAttribute("open", "");
    fault[1].focus();
    return;
  }
  showError("");
  const body = readForm();
  const start = performance.now();
  const seconds = () => Math.round((performance.now() - start) / 1000);
  const showTime = () => (element("time").textContent = seconds() ? ` ${seconds()} s` : "");
  const timer = setInterval(showTime, 1000);
  running = new AbortController();
  setBusy(true);
  element("status").textContent = "Rewriting …";
  try {
    const answer = await ask("refine", {
      method: "POST",
      body: JSON.stringify(body),
      signal: running.signal,
    });
    history.add(body, answer);
    showHistory();
    showAnswer(answer);
    element("status").textContent = "";
    element("result").scrollIntoView({ block: "nearest" });
  } catch (error) {
    element("status").textContent = "";
    showFailure(error);
  } finally {
    clearInterval(timer);
    element("time").textContent = "";
    running = null;
    setBusy(false);
  }
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  refine();
});

element("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) refine();
});

element("stop").addEventListener("click", () => running?.abort());

element("again").addEventListener("click", () => {
  const seed = Number(element("seed").value);
  element("seed").value = seed < MAX_SEED ? seed + 1 : 0;
  refine();
});

element("keep-selection").addEventListener("click", () => {
  const { value, selectionStart, selectionEnd } = element("prompt");
  const term = value.slice(selectionStart, selectionEnd).trim();
  if (!term) {
    showError("Select words in your prompt first");
    return;
  }
  showError("");
  element("keep").value = [...new Set([...termsToKeep(), ...term.split(/\s*\n\s*/)])].join("\n");
});

// ----------------------------------------------------------------------------------- the result

function showAnswer(answer) {
  shown = answer;
  element("result").hidden = false;
  element("rewrite").value = answer.refined;
  element("copied").textContent = "";
  element("notice").textContent = answer.reason ? `Unchanged: ${answer.reason}` : "";
  element("notice").hidden = !answer.reason;
  element("units").replaceChildren(...Object.keys(KINDS).flatMap((kind) => unitRow(kind, answer[kind] ?? [])));
  const flags = Object.entries(answer.settings ?? {}).map(([name, value]) => [`-${name}`, value]);
  if (answer.negative_prompt) flags.push(["negative prompt", answer.negative_prompt]);
  element("flags").replaceChildren(...flags.flatMap(([name, value]) => row(name, value)));
  clearVideos();
  showDifferences();
}

function row(name, ...content) {
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  term.textContent = name;
  description.append(...content);
  return [term, description];
}

function unitRow(kind, units) {
  if (!units.length) return [];
  const list = document.createElement("ul");
  for (const unit of units) {
    const item = document.createElement("li");
    item.className = `unit ${kind}`;
    item.textContent = unit;
    list.append(item);
  }
  return row(`${KINDS[kind]} (${units.length})`, list);
}

/** Mark both texts, as the rewrite is now. */
function showDifferences() {
  const prompt = shown.original ?? shown.prompt;
  const rewrite = element("rewrite").value;
  const [promptWords, rewriteWords] = [words(prompt), words(rewrite)];
  const [isKept, isOld] = sharedWords(promptWords, rewriteWords);
  const isEdited = rewrite !== shown.refined;

  const promptKinds = promptWords.map(() => "");
  for (const kind of ["contradicted", "missing", "kept"]) {
    markUnits(promptKinds, promptWords, shown[kind] ?? [], kind);
  }
  const isInRewrite = haveForms(promptWords, rewriteWords);
  isKept.forEach((value, i) => (promptKinds[i] ||= value || isInRewrite[i] ? "" : "gone"));
  showMarked(element("source"), prompt, promptWords, promptKinds);

  const rewriteKinds = rewriteWords.map(() => "");
  markUnits(rewriteKinds, rewriteWords, shown.added ?? [], "added");
  const isInPrompt = haveForms(rewriteWords, promptWords);
  isOld.forEach((value, i) => (rewriteKinds[i] ||= value || isInPrompt[i] ? "" : "new"));
  showMarked(element("backdrop"), rewrite, rewriteWords, rewriteKinds);
  element("backdrop").append("\u200b"); // a last empty line has a height too

  const count = `${rewriteWords.length} ${rewriteWords.length === 1 ? "word" : "words"}`;
  element("numbers").textContent = [count, ...origin(shown)].join(" · ");
  element("undo").hidden = !isEdited;
  element("faith").textContent = comparison() + (isEdited ? " Your edits are not compared." : "");
}

/** Seed and model of an answer. */
function origin(answer) {
  return [`seed ${answer.seed}`, answer.model, answer.adapter].filter(Boolean);
}

function comparison() {
  const { faith } = shown;
  if (typeof faith === "number") return `Faithfulness: ${faith.toFixed(2)} of 1.`;
  if (shown.note) return `${shown.note[0].toUpperCase()}${shown.note.slice(1)}.`;
  return "Not compared: the mode is off, or the texts are not in English.";
}

element("rewrite").addEventListener("input", showDifferences);

element("undo").addEventListener("click", () => {
  element("rewrite").value = shown.refined;
  showDifferences();
  element("rewrite").focus();
});

element("copy").addEventListener("click", async () => {
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(element("rewrite").value);
  } catch {
    // no clipboard at a plain http:// address of another machine
    element("rewrite").select();
    isCopied = document.execCommand("copy");
  }
  element("copied").textContent = isCopied ? "Copied." : "Press Ctrl+C to copy.";
});

// ----------------------------------------------------------------------------------- the videos

element("make-videos").addEventListener("click", async () => {
  const texts = {
    "Video of the prompt": shown.original ?? shown.prompt,
    "Video of the rewrite": element("rewrite").value,
  };
  showError("");
  element("make-videos").disabled = true;
  try {
    await showVideos(texts, shown.seed);
  } catch (error) {
    showFailure(error);
  } finally {
    element("make-videos").disabled = false;
  }
});

// ---------------------------------------------------------------------------------- the history

function showHistory() {
  const items = history.entries().map((entry) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const details = document.createElement("span");
    const text = document.createElement("span");
    button.type = "button";
    details.className = "hint";
    details.textContent = [new Date(entry.time).toLocaleString(), ...origin(entry.answer)].join(" · ");
    text.textContent = entry.body.prompt;
    button.append(text, details);
    button.addEventListener("click", () => {
      fillForm(entry.body);
      showAnswer(entry.answer);
      showError("");
      element("result").scrollIntoView({ block: "start" });
    });
    item.append(button);
    return item;
  });
  element("history").replaceChildren(...items);
  element("clear").hidden = !items.length;
}

element("clear").addEventListener("click", () => {
  history.clear();
  showHistory();
});

window.addEventListener("storage", showHistory); // another tab

showHistory();
loadModels();
