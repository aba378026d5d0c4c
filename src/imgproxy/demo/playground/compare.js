// Two formats or qualities of the result, one over the other, with a divider to move.

import { byId, bytesInWords, make } from "./dom.js";
import { fetchPicture, sign } from "./service.js";

const FORMATS = ["jpg", "webp", "avif", "png"];
const SIDES = [
  { name: "Left", format: "jpg", quality: 75 },
  { name: "Right", format: "webp", quality: 50 },
];

export class Compare {
  #state;
  #sides;
  #problem = make("p", { className: "problem", role: "status" });

  constructor(state) {
    this.#state = state;
    this.#sides = SIDES.map((side) => this.#side(side));
    const [left, right] = this.#sides;
    const divider = make("input", { type: "range", min: 0, max: 100, value: 50, id: "divider", "aria-label": "Divider" });
    const stack = make("div", { className: "frame checks stack" }, left.image, right.image, make("div", { className: "divider" }));
    const divide = () => stack.style.setProperty("--divider", `${divider.value}%`);
    divider.addEventListener("input", divide);
    divide();
    byId("panel-compare").replaceChildren(make("div", { className: "sides" }, left.box, right.box), stack, divider, this.#problem);
  }

  /** Load both sides. */
  async load() {
    try {
      await Promise.all(this.#sides.map((side) => this.#load(side)));
      this.#problem.textContent = "";
    } catch (error) {
      this.#problem.textContent = error.message;
    }
  }

  #side({ name, format, quality }) {
    const select = make("select", { "aria-label": `${name}: format` }, ...FORMATS.map((value) => make("option", { value }, value)));
    select.value = format;
    const number = make("input", { type: "number", min: 0, max: 100, value: quality, "aria-label": `${name}: quality` });
    const size = make("output", { className: "quiet" });
    const image = make("img", { alt: `${name} side`, hidden: true });
    const side = { select, number, size, image, box: make("div", { className: "line" }, make("strong", {}, name), select, number, size) };
    select.addEventListener("change", () => this.load());
    number.addEventListener("change", () => this.load());
    return side;
  }

  async #load(side) {
    const wanted = () => this.#state.target({ fm: side.select.value, q: side.number.value, auto: null });
    const asked = wanted();
    const fetched = await fetchPicture((await sign([asked]))[0], "image/*");
    if (asked !== wanted()) return; // a newer call shows its picture
    const before = side.image.src;
    side.image.src = URL.createObjectURL(fetched.blob);
    side.image.hidden = false;
    side.size.value = bytesInWords(fetched.bytes);
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
    await side.image.decode();
  }
}
