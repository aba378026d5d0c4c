// The pictures to choose from, with thumbnails that the service makes.

import { byId, make, settled } from "./dom.js";
import { get, sign, urlOf } from "./service.js";
import { targetOf } from "./state.js";

const THUMBNAIL = { w: "160", h: "120", fit: "crop", crop: "faces,entropy", auto: "format" };

export class Pictures {
  #state;
  #latest = 0;

  constructor(state) {
    this.#state = state;
    byId("search").addEventListener("input", settled(() => this.list(), 200));
    state.addEventListener("picture", () => this.#mark());
  }

  /** List the pictures that fit the search. The first one is chosen if none is. */
  async list() {
    const number = (this.#latest += 1);
    const search = byId("search").value.trim();
    const note = byId("pictures-note");
    try {
      const { pictures } = await get(`/-/playground/pictures?search=${encodeURIComponent(search)}`);
      const thumbnails = await sign(pictures.map(({ key }) => targetOf(key, THUMBNAIL)));
      if (number !== this.#latest) return;
      const typed = search && !pictures.length ? [this.#typed(search)] : [];
      byId("pictures").replaceChildren(...pictures.map((picture, index) => this.#item(picture, thumbnails[index])), ...typed);
      note.textContent = pictures.length || search ? "" : "No picture is known yet. Type the key of one.";
      if (!this.#state.picture && pictures.length) this.#state.choose(pictures[0]);
      this.#mark();
    } catch (error) {
      note.textContent = error.message;
    }
  }

  #item(picture, thumbnail) {
    const image = make("img", { width: 160, height: 120, loading: "lazy", alt: "" });
    image.addEventListener("error", () => image.classList.add("gone"));
    image.src = urlOf(thumbnail);
    const button = make("button", { type: "button", title: picture.key }, image, make("span", {}, picture.key.split("/").pop()));
    button.dataset.key = picture.key;
    button.addEventListener("click", () => this.#state.choose(picture));
    return make("li", {}, button);
  }

  /** Offer a key that is typed and not listed: the service does not know every picture of the library. */
  #typed(key) {
    const button = make("button", { type: "button", className: "typed" }, `Open ${key}`);
    button.dataset.key = key;
    button.addEventListener("click", () => this.#state.choose({ entry: "", key, revoked: false }));
    return make("li", {}, button);
  }

  #mark() {
    for (const button of byId("pictures").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.key === this.#state.picture?.key));
    }
  }
}
