// The rewrites of this browser, in its local storage.

const NAME = "pav.history";
const MAX_ENTRIES = 50;

let memory = []; // where storage is switched off

/** The entries {time, body, answer}, newest first; what is damaged is left out. */
export function entries() {
  try {
    const stored = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(stored) ? stored.filter(isEntry) : [];
  } catch (error) {
    return error instanceof SyntaxError ? [] : memory;
  }
}

function isEntry(entry) {
  return typeof entry?.body?.prompt === "string" && typeof entry?.answer?.refined === "string";
}

export function add(body, answer) {
  let list = [{ time: Date.now(), body, answer }, ...entries()].slice(0, MAX_ENTRIES);
  memory = list;
  while (list.length) {
    try {
      localStorage.setItem(NAME, JSON.stringify(list));
      return;
    } catch {
      list = list.slice(0, Math.floor(list.length / 2)); // the storage is full, or switched off
    }
  }
}

export function clear() {
  memory = [];
  try {
    localStorage.removeItem(NAME);
  } catch {
    // nothing is stored
  }
}
