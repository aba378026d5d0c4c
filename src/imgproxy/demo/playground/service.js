// Calls to the service. The admin token is kept in this tab only (sessionStorage), never in a cookie.

const ROOT = new URL("../", location.href);
const KEPT = "imgproxy admin token";

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** Take the token of the URL's fragment, as the demo prints it, and remove it from the address bar. */
export function takeTokenOfUrl() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  sessionStorage.setItem(KEPT, token);
  history.replaceState(null, "", location.pathname + location.search);
}

export const hasToken = () => sessionStorage.getItem(KEPT) !== null;
export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
export const forgetToken = () => sessionStorage.removeItem(KEPT);

/** The absolute URL of a target, which begins with a slash. */
export const urlOf = (target) => new URL(target.slice(1), ROOT).href;

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT) ?? ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await send(urlOf(path), { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!response.ok) throw new Refused(response.status, await problemInWords(response));
  return response.json();
}

async function send(url, options) {
  try {
    return await fetch(url, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
}

/** Say what an error answer says. The service sends problem details (RFC 9457). */
async function problemInWords(response) {
  try {
    const problem = await response.json();
    return `${response.status} ${problem.title}. ${problem.detail ?? ""}`.trim();
  } catch {
    return `The answer is ${response.status}.`;
  }
}

/** Return the targets, signed if the service has signing tokens. */
export async function sign(targets) {
  return (await post("/-/playground/sign", { targets })).targets;
}

/** Fetch a picture and say how it was made. Raises Refused for an error answer. */
export async function fetchPicture(target, accept, signal) {
  const started = performance.now();
  const response = await send(urlOf(target), { headers: { Accept: accept }, signal });
  if (!response.ok) throw new Refused(response.status, await problemInWords(response));
  const blob = await response.blob();
  return {
    blob,
    type: (response.headers.get("Content-Type") ?? "").split(";")[0],
    bytes: blob.size,
    roundTripMs: performance.now() - started,
    stages: stagesOf(response.headers.get("Server-Timing") ?? ""),
    outcome: outcomeOf(response.headers.get("Cache-Status") ?? ""),
    credentials: response.headers.get("X-Imgproxy-Credentials"),
    manifest: manifestOf(response.headers.get("Link") ?? ""),
  };
}

/** Read Server-Timing: pairs of a stage and its milliseconds. */
export function stagesOf(header) {
  return [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
}

/** Read from Link (RFC 8288) where the manifest of a picture is; undefined for one without. */
export const manifestOf = (header) => /<(https?:[^>]+)>; rel="c2pa-manifest"/.exec(header)?.[1];

/** Say in words what Cache-Status (RFC 9211) says. */
export function outcomeOf(header) {
  if (/;\s*hit/.test(header)) {
    const where = /detail=([\w-]+)/.exec(header)?.[1];
    return where ? `hit (${where})` : "hit";
  }
  const reasons = { "uri-miss": "miss: fetched and made now", miss: "miss: made now", stale: "proved again at the origin" };
  const reason = /fwd=([\w-]+)/.exec(header)?.[1];
  return reason ? (reasons[reason] ?? reason) : header;
}
