// The result: the picture as the service makes it, with what it took.

import { describeResult } from "./credentials.js";
import { byId, bytesInWords, fillFacts } from "./dom.js";
import { fetchPicture, sign } from "./service.js";


export class Result {
  #state;
  #accept;
  #hasCredentials;
  #running = null;
  #url = "";

  constructor(state, accept, facts) {
    this.#state = state;
    this.#accept = accept;
    this.#hasCredentials = facts.credentials;
    this.#showFacts(null, "");
  }

  /** Load the result. Returns what was fetched, or the error that is shown; undefined if a newer load replaced it. */
  async load() {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    const frame = byId("result");
    frame.setAttribute("aria-busy", "true");
    try {
      const [target] = await sign([this.#state.target()]);
      const fetched = await fetchPicture(target, this.#accept(), running.signal);
      const isPicture = fetched.type.startsWith("image/");
      const pixels = isPicture ? await this.#showImage(fetched.blob) : await this.#showText(fetched.blob);
      if (running.signal.aborted) return undefined;
      byId("result-problem").textContent = "";
      this.#showFacts(fetched, pixels);
      return fetched;
    } catch (error) {
      if (running.signal.aborted) return undefined;
      byId("result-image").hidden = byId("result-text").hidden = true;
      byId("result-problem").textContent = error.message;
      this.#showFacts(null, "");
      return error;
    } finally {
      if (this.#running === running) frame.removeAttribute("aria-busy");
    }
  }

  async #showImage(blob) {
    const url = URL.createObjectURL(blob);
    const image = byId("result-image");
    const next = new Image();
    next.src = url;
    try {
      await next.decode();
    } catch {
      URL.revokeObjectURL(url);
      throw new Error(`This browser cannot show ${blob.type}.`);
    }
    URL.revokeObjectURL(this.#url);
    this.#url = url;
    image.src = url;
    image.hidden = false;
    byId("result-text").hidden = true;
    return `${next.naturalWidth} × ${next.naturalHeight}`;
  }

  async #showText(blob) {
    const text = await blob.text();
    const pre = byId("result-text");
    pre.textContent = blob.type.includes("json") ? JSON.stringify(JSON.parse(text), null, 2) : text;
    pre.hidden = false;
    byId("result-image").hidden = true;
    return "";
  }

  /** Show what a picture took; null shows dashes. */
  #showFacts(fetched, pixels) {
    const terms = ["pixels", "format", "bytes", "time", "cache", ...(this.#hasCredentials ? ["credentials"] : [])];
    if (fetched === null) return fillFacts(byId("result-facts"), terms.map((term) => [term, ""]));
    // Answers from memory have no stages: then the time is that of the round trip.
    const total = fetched.stages.find(([name]) => name === "total")?.[1];
    const stages = fetched.stages.filter(([name]) => name !== "total").map(([name, ms]) => `${name} ${ms} ms`);
    const saved = this.#state.source ? ` (${Math.round((100 * fetched.bytes) / this.#state.source.bytes)} %)` : "";
    return fillFacts(byId("result-facts"), [
      ["pixels", pixels],
      ["format", fetched.type.replace("image/", "")],
      ["bytes", bytesInWords(fetched.bytes) + saved],
      ["time", total === undefined ? `${fetched.roundTripMs.toFixed(1)} ms, round trip` : [`${total} ms`, ...stages].join(", ")],
      ["cache", fetched.outcome],
      ...(this.#hasCredentials ? [["credentials", describeResult(fetched)]] : []),
    ]);
  }
}
