// Small helpers for the document.

export const byId = (id) => document.getElementById(id);

/** Make an element. Properties are set as properties, those with a dash as attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Return nodes for a text in which words between backquotes are code. */
export function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

const LINES = new Set(["key", "time", "cache", "credentials"]);

/** Fill a definition list with pairs of a term and a description. What is not known is a dash, so that nothing moves. */
export function fillFacts(list, pairs) {
  const parts = pairs.map(([term, text]) => make("div", { className: LINES.has(term) ? "wide" : "" }, make("dt", {}, term), make("dd", {}, text || "–")));
  list.replaceChildren(...parts);
}

/** Return a function that runs `work` once, a moment after its last call. */
export function settled(work, delayMs) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), delayMs);
  };
}

export function bytesInWords(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(bytes < 10_000 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Copy a text, also where the page is not on https or localhost: there browsers have no `navigator.clipboard`. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
