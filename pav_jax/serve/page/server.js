// Requests to the server, with the key of this tab.

const KEY = "pav.key";

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function hasKey() {
  return Boolean(readKey());
}

function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memory.key; // storage is switched off
  }
}

const memory = { key: "" };

export function setKey(key) {
  memory.key = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // only in memory then
  }
}

/** The JSON that a route answers; throws ServerError with one line for the user. */
export async function ask(path, options = {}) {
  return read(await send(path, options), "json");
}

/** The file that a route answers to a body. */
export async function askForFile(path, body) {
  return read(await send(path, { method: "POST", body: JSON.stringify(body) }), "blob");
}

async function send(path, options) {
  const headers = { "Content-Type": "application/json" };
  if (hasKey()) headers.Authorization = `Bearer ${readKey()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.message.includes("header") || error.message.includes("ByteString")) {
      throw new ServerError("the API key has characters that no key can have", 401);
    }
    throw new ServerError("the server cannot be reached; is it still running?", 0);
  }
  if (response.status === 401) throw new ServerError("the API key is missing or wrong", 401);
  if (!response.ok) {
    const answer = await read(response, "json");
    const message = answer?.error?.message ?? `the server answered with status ${response.status}`;
    throw new ServerError(message, response.status);
  }
  return response;
}

async function read(response, form) {
  try {
    return await response[form]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(`the server's answer cannot be read (status ${response.status})`, response.status);
  }
}
