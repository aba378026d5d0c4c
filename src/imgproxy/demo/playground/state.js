// What is chosen: a picture, and the text of each parameter. Everything else on the page follows from it.

export class State extends EventTarget {
  picture = null; // {entry, key, revoked}
  source = null; // {width, height} of the upright original in pixels
  #texts = new Map();

  get(name) {
    return this.#texts.get(name) ?? "";
  }

  names() {
    return [...this.#texts.keys()];
  }

  /** Set several parameters at once. An empty text removes one. */
  set(texts) {
    for (const [name, text] of Object.entries(texts)) {
      if (text === "" || text === null) this.#texts.delete(name);
      else this.#texts.set(name, String(text));
    }
    this.dispatchEvent(new Event("parameters"));
  }

  clear() {
    this.#texts.clear();
    this.dispatchEvent(new Event("parameters"));
  }

  choose(picture) {
    this.picture = picture;
    this.source = null;
    this.#texts.delete("rect"); // in pixels of the picture before
    this.dispatchEvent(new Event("picture"));
    this.dispatchEvent(new Event("parameters"));
  }

  /** The target of the result, or of the same picture with some parameters replaced (null: without it). */
  target(replaced = {}) {
    const texts = new Map(this.#texts);
    for (const [name, text] of Object.entries(replaced)) {
      if (text === null) texts.delete(name);
      else texts.set(name, String(text));
    }
    return targetOf(this.picture.key, texts);
  }

  query() {
    return queryOf(this.#texts);
  }
}

export function targetOf(key, texts) {
  const query = queryOf(texts instanceof Map ? texts : new Map(Object.entries(texts)));
  const path = `/${key.split("/").map(encodeURIComponent).join("/")}`;
  return query ? `${path}?${query}` : path;
}

/** Percent-encode, but leave commas and colons as people write them. */
function queryOf(texts) {
  const pairs = [...texts].map(([name, text]) => [name, encodeURIComponent(text).replace(/%2C/g, ",").replace(/%3A/g, ":")]);
  return pairs.map(([name, text]) => `${name}=${text}`).join("&");
}
