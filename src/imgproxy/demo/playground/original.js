// The original: drag a crop on it, or click its focal point. With the keyboard: arrows, and Shift for the size.

import { describeOriginal } from "./credentials.js";
import { byId, bytesInWords, fillFacts } from "./dom.js";
import { fetchPicture, sign } from "./service.js";
import { targetOf } from "./state.js";

const PREVIEW = { w: "1200", fit: "max", auto: "format" };
const TOOLS = {
  crop: "Crop: drag a rectangle; arrows move it, Shift and arrows change its size, Delete removes it",
  focus: "Focal point: click it; arrows move it, Delete removes it",
};
const STEP = 0.02; // of the picture, for each press of an arrow
const CROP_MIN = 0.01;
const clamp = (value, least = 0, most = 1) => Math.min(Math.max(value, least), most);

export class Original {
  #state;
  #accept;
  #hasCredentials;
  #tool = "crop";
  #from = null; // where a drag began
  #dragged = null; // the rectangle while it is dragged
  #url = "";

  constructor(state, accept, facts) {
    this.#state = state;
    this.#accept = accept;
    this.#hasCredentials = facts.credentials;
    byId("tool-crop").addEventListener("click", () => this.#use("crop"));
    byId("tool-focus").addEventListener("click", () => this.#use("focus"));
    const overlay = byId("overlay");
    overlay.addEventListener("pointerdown", (event) => this.#down(event));
    overlay.addEventListener("pointermove", (event) => this.#move(event));
    overlay.addEventListener("pointerup", (event) => this.#up(event));
    overlay.addEventListener("pointercancel", () => this.#end());
    overlay.addEventListener("keydown", (event) => this.#key(event));
    state.addEventListener("picture", () => this.load());
    state.addEventListener("parameters", () => this.#draw());
    new ResizeObserver(() => this.#fit()).observe(byId("original"));
    this.#use("crop");
    this.#showFacts("", "", "", "");
  }

  /** Load preview and facts of the chosen picture. */
  async load() {
    const picture = this.#state.picture;
    const image = byId("original-image");
    const problem = byId("original-problem");
    byId("overlay").hidden = true;
    try {
      const [preview, json] = await sign([targetOf(picture.key, PREVIEW), targetOf(picture.key, { fm: "json" })]);
      const [shown, described] = await Promise.all([fetchPicture(preview, this.#accept()), fetchPicture(json, "*/*")]);
      const facts = JSON.parse(await described.blob.text());
      if (picture !== this.#state.picture) return;
      // The facts have the size as it is stored. Orientations from 5 on lie on their side (EXIF).
      const [width, height] = facts.Orientation >= 5 ? [facts.PixelHeight, facts.PixelWidth] : [facts.PixelWidth, facts.PixelHeight];
      this.#state.source = { width, height, bytes: Number(facts["Content-Length"]) };
      URL.revokeObjectURL(this.#url);
      this.#url = URL.createObjectURL(shown.blob);
      image.src = this.#url;
      image.alt = `Original of ${picture.key}`;
      await image.decode();
      image.hidden = false;
      problem.textContent = "";
      byId("overlay").hidden = false;
      this.#showFacts(`${width} × ${height}`, facts["Content-Type"].replace("image/", ""), bytesInWords(this.#state.source.bytes), picture.key, describeOriginal(facts.ContentCredentials));
      this.#fit();
      this.#draw();
      this.#state.dispatchEvent(new Event("source"));
    } catch (error) {
      if (picture !== this.#state.picture) return;
      image.hidden = true;
      this.#showFacts("", "", "", picture.key);
      problem.textContent = error.message;
    }
  }

  #showFacts(pixels, format, bytes, key, credentials = "") {
    const pairs = [["pixels", pixels], ["format", format], ["bytes", bytes], ["key", key]];
    fillFacts(byId("original-facts"), [...pairs, ...(this.#hasCredentials ? [["credentials", credentials]] : [])]);
  }

  #use(tool) {
    this.#tool = tool;
    byId("tool-crop").setAttribute("aria-pressed", String(tool === "crop"));
    byId("tool-focus").setAttribute("aria-pressed", String(tool === "focus"));
    byId("overlay").setAttribute("aria-label", TOOLS[tool]);
  }

  /** Lay the overlay exactly over the picture, which is smaller than its frame. */
  #fit() {
    const image = byId("original-image");
    const frame = byId("original");
    if (image.hidden || !image.naturalWidth) return;
    const scale = Math.min(frame.clientWidth / image.naturalWidth, frame.clientHeight / image.naturalHeight);
    const width = image.naturalWidth * scale;
    const height = image.naturalHeight * scale;
    place(byId("overlay"), (frame.clientWidth - width) / 2, (frame.clientHeight - height) / 2, width, height, "px");
  }

  // --- places: everything is a part of the picture, from 0 to 1 ---

  #at(event) {
    const box = byId("overlay").getBoundingClientRect();
    return { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) };
  }

  /** The rectangle of `rect`, or the whole picture. */
  #rect() {
    const parts = this.#state.get("rect").split(",").map(Number);
    const source = this.#state.source;
    if (parts.length !== 4 || parts.some(Number.isNaN) || !source) return { x: 0, y: 0, w: 1, h: 1 };
    return { x: parts[0] / source.width, y: parts[1] / source.height, w: parts[2] / source.width, h: parts[3] / source.height };
  }

  #setRect({ x, y, w, h }) {
    const { width, height } = this.#state.source;
    const pixels = [x * width, y * height, Math.max(1, w * width), Math.max(1, h * height)];
    this.#state.set({ rect: pixels.map(Math.round).join(",") });
  }

  /** A focal point is a part of the rectangle. It needs a mode of fit, and a box to fill. */
  #setFocus({ x, y }) {
    const rect = this.#rect();
    const texts = {
      "fp-x": clamp((x - rect.x) / rect.w).toFixed(3),
      "fp-y": clamp((y - rect.y) / rect.h).toFixed(3),
      fit: "crop",
      crop: "focalpoint",
    };
    if (!this.#state.get("w")) texts.w = "600";
    if (!this.#state.get("h") && !this.#state.get("ar")) texts.h = this.#state.get("w") || "600";
    this.#state.set(texts);
  }

  #focus() {
    const rect = this.#rect();
    const part = (name) => (this.#state.get(name) === "" ? 0.5 : Number(this.#state.get(name)));
    return { x: rect.x + part("fp-x") * rect.w, y: rect.y + part("fp-y") * rect.h };
  }

  // --- mouse, pen and finger ---

  #down(event) {
    if (event.button !== 0) return;
    byId("overlay").setPointerCapture(event.pointerId);
    this.#from = this.#at(event);
    if (this.#tool === "focus") this.#setFocus(this.#from);
  }

  #move(event) {
    if (!this.#from) return;
    const at = this.#at(event);
    if (this.#tool === "focus") return this.#setFocus(at);
    const from = this.#from;
    this.#dragged = { x: Math.min(from.x, at.x), y: Math.min(from.y, at.y), w: Math.abs(at.x - from.x), h: Math.abs(at.y - from.y) };
    this.#draw();
  }

  #up() {
    const dragged = this.#dragged;
    this.#end();
    if (dragged && dragged.w >= CROP_MIN && dragged.h >= CROP_MIN) this.#setRect(dragged);
  }

  #end() {
    this.#from = this.#dragged = null;
    this.#draw();
  }

  // --- keyboard ---

  #key(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key === "Delete" || event.key === "Backspace") {
      this.#state.set(this.#tool === "crop" ? { rect: "" } : { "fp-x": "", "fp-y": "" });
    } else if (event.key in moves) {
      const [x, y] = moves[event.key];
      if (this.#tool === "focus") {
        const focus = this.#focus();
        this.#setFocus({ x: focus.x + x, y: focus.y + y });
      } else {
        this.#setRect(moved(this.#state.get("rect") ? this.#rect() : { x: 0.1, y: 0.1, w: 0.8, h: 0.8 }, x, y, event.shiftKey));
      }
    } else return;
    event.preventDefault();
  }

  #draw() {
    const rect = this.#dragged ?? this.#rect();
    const crop = byId("crop");
    crop.hidden = !this.#dragged && !this.#state.get("rect");
    place(crop, rect.x * 100, rect.y * 100, rect.w * 100, rect.h * 100, "%");
    const point = byId("focus");
    point.hidden = !this.#state.get("fp-x") && !this.#state.get("fp-y");
    const focus = this.#focus();
    point.style.left = `${focus.x * 100}%`;
    point.style.top = `${focus.y * 100}%`;
  }
}

/** Return a rectangle that is moved, or with another size, inside the picture. */
function moved({ x, y, w, h }, right, down, isSize) {
  if (isSize) return { x, y, w: clamp(w + right, CROP_MIN, 1 - x), h: clamp(h + down, CROP_MIN, 1 - y) };
  return { x: clamp(x + right, 0, 1 - w), y: clamp(y + down, 0, 1 - h), w, h };
}

function place(element, left, top, width, height, unit) {
  Object.assign(element.style, { left: left + unit, top: top + unit, width: width + unit, height: height + unit });
}
