// A control for each parameter, by the form of its value. A new row of the table appears here by itself.

import { byId, make, withCode } from "./dom.js";

// The service signs; nobody types a signature.
const WITHOUT_CONTROL = new Set(["s"]);
const OPEN_AT_FIRST = new Set(["Size", "Crop", "Format and encoding"]);
// Sliders of longer ranges are not linear: half of the way is a quarter of the range.
const LINEAR_MAX = 1000;
const STEPS = 200;

/** Build the controls of a table, and keep them and the state the same. */
export function buildControls(state, table, presets) {
  const rows = [];
  const isWide = matchMedia("(min-width: 62rem)").matches;
  const sections = table.sections.map(({ title, parameters }) => {
    const here = parameters.filter(({ name }) => !WITHOUT_CONTROL.has(name)).map((row) => control(state, row, presets));
    rows.push(...here);
    const count = make("span", { className: "count" });
    const details = make("details", { open: isWide && OPEN_AT_FIRST.has(title) }, make("summary", {}, title, count), ...here.map(({ element }) => element));
    return { details, count, here };
  });
  byId("controls").replaceChildren(...sections.map(({ details }) => details));

  const show = () => {
    rows.forEach((row) => row.update());
    for (const { count, here } of sections) {
      const used = here.filter(({ name }) => state.get(name)).length;
      count.textContent = used ? String(used) : "";
    }
  };
  state.addEventListener("parameters", show);
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const { details, here } of sections) {
      here.forEach(({ element, words }) => (element.hidden = !words.includes(wanted)));
      details.hidden = here.every(({ element }) => element.hidden);
      if (wanted && !details.hidden) details.open = true;
    }
  });
  byId("reset").addEventListener("click", () => state.clear());
  show();
}

function control(state, row, presets) {
  const id = `p-${row.name}`;
  const set = (text) => state.set({ [row.name]: text });
  const { nodes, show } = (BUILDERS[row.form] ?? asText)(row, id, set, row.name === "preset" ? presets : []);
  const clear = make("button", { type: "button", className: "clear", title: "Remove", "aria-label": `Remove ${row.name}` }, "×");
  clear.addEventListener("click", () => {
    set("");
    element.querySelector("input, select").focus();
  });
  const isGroup = row.form === "choices" || row.form === "rect" || row.form === "colours";
  const name = isGroup ? make("span", { className: "name", id: `${id}-name` }, row.name) : make("label", { className: "name", for: id }, row.name);
  const hint = make("p", { className: "hint", id: `${id}-hint` }, ...withCode(row.effect));
  hint.title = `Expected: ${row.expected}${row.default ? `; default: ${row.default}` : ""}`;
  const box = make("div", { className: `inputs ${row.form}` }, ...nodes);
  if (isGroup) {
    box.setAttribute("role", "group");
    box.setAttribute("aria-labelledby", `${id}-name`);
  }
  const element = make("div", { className: "row" }, make("div", { className: "head" }, name, clear), box, hint);
  return {
    name: row.name,
    words: `${row.name} ${row.effect}`.toLowerCase(),
    element,
    update() {
      const text = state.get(row.name);
      element.classList.toggle("used", text !== "");
      clear.hidden = text === "";
      show(text);
    },
  };
}

// --- one builder a form: each returns its nodes, and what shows a text in them --------------------------------------

/** Set a value, unless somebody types there now. */
function showIn(input, text) {
  if (document.activeElement !== input || input.type === "range" || text === "") input.value = text;
}

function asNumber(row, id, set) {
  const { least, most } = row;
  const isWhole = row.form === "whole";
  const isLinear = most - least <= LINEAR_MAX;
  const step = isWhole ? 1 : most - least <= 10 ? 0.01 : 0.5;
  const valueAt = (place) => {
    const value = isLinear ? place : least + (most - least) * (place / STEPS) ** 2;
    return isWhole ? Math.round(value) : Math.round(value * 100) / 100;
  };
  const placeOf = (value) => (isLinear ? value : STEPS * Math.sqrt(Math.max(0, value - least) / (most - least)));
  const slider = make("input", {
    type: "range", min: isLinear ? least : 0, max: isLinear ? most : STEPS, step: isLinear ? step : 1,
    "aria-label": `${row.name}, slider`,
  });
  const number = make("input", {
    type: "number", id, min: least, max: most, step: "any", placeholder: row.default.length < 8 ? row.default.replace(/`/g, "") : "",
    "aria-describedby": `${id}-hint`,
  });
  slider.addEventListener("input", () => set(String(valueAt(Number(slider.value)))));
  number.addEventListener("input", () => set(number.value));
  const unset = Number.isFinite(Number.parseFloat(row.default)) ? Number.parseFloat(row.default) : least;
  return {
    nodes: [slider, number],
    show(text) {
      slider.value = placeOf(text === "" ? unset : Number(text));
      slider.setAttribute("aria-valuetext", text === "" ? "not set" : text);
      showIn(number, text);
    },
  };
}

function asChoice(row, id, set) {
  const usual = row.default && row.default.length < 24 ? `default: ${row.default.replace(/`/g, "")}` : "not set";
  const options = [["", usual], ...row.members.map((member) => [member, member])];
  const select = make("select", { id, "aria-describedby": `${id}-hint` }, ...options.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => set(select.value));
  return { nodes: [select], show: (text) => (select.value = text) };
}

function asChoices(row, id, set) {
  const boxes = row.members.map((member) => make("input", { type: "checkbox", value: member }));
  for (const box of boxes) {
    box.addEventListener("change", () => set(boxes.filter(({ checked }) => checked).map(({ value }) => value).join(",")));
  }
  return {
    nodes: boxes.map((box) => make("label", { className: "check" }, box, box.value)),
    show(text) {
      const words = text.split(",");
      boxes.forEach((box) => (box.checked = words.includes(box.value)));
    },
  };
}

function picker(label, use) {
  const input = make("input", { type: "color", "aria-label": label });
  input.addEventListener("input", () => use(input.value.slice(1)));
  return input;
}

/** The six digits that a colour picker can show, or undefined: for names, and with transparency it shows the colour. */
function sixDigits(text) {
  const digits = text.replace(/^#/, "");
  if (/^[0-9a-f]{6}$/i.test(digits)) return `#${digits}`;
  if (/^[0-9a-f]{8}$/i.test(digits)) return `#${digits.slice(2)}`;
  if (/^[0-9a-f]{3,4}$/i.test(digits)) return `#${[...digits.slice(-3)].map((digit) => digit + digit).join("")}`;
  return undefined;
}

function asColour(row, id, set) {
  const colour = picker(`${row.name}, colour picker`, set);
  const text = make("input", { id, placeholder: "name or hex", "aria-describedby": `${id}-hint` });
  text.addEventListener("change", () => set(text.value.trim().replace(/^#/, "")));
  return {
    nodes: [colour, text],
    show(value) {
      showIn(text, value);
      colour.value = sixDigits(value) ?? "#808080";
    },
  };
}

function asColours(row, id, set) {
  const pickers = Array.from({ length: row.most }, (_, index) =>
    picker(`${row.name}, colour ${index + 1}`, () => set(pickers.map(({ value }) => value.slice(1)).join(","))),
  );
  return {
    nodes: pickers,
    show(value) {
      value.split(",").forEach((part, index) => {
        if (pickers[index]) pickers[index].value = sixDigits(part) ?? "#808080";
      });
    },
  };
}

function asRect(row, id, set) {
  const sides = ["x", "y", "w", "h"].map((side) => make("input", { type: "number", min: 0, step: 1, "aria-label": `${row.name}, ${side} in pixels`, placeholder: side }));
  for (const side of sides) {
    side.addEventListener("input", () => {
      if (sides.every(({ value }) => value !== "")) set(sides.map(({ value }) => value).join(","));
    });
  }
  return {
    nodes: sides,
    show(text) {
      const parts = text.split(",");
      if (text !== "" || !sides.includes(document.activeElement)) sides.forEach((side, index) => showIn(side, parts[index] ?? ""));
    },
  };
}

function asText(row, id, set, suggestions = []) {
  const input = make("input", { id, placeholder: row.expected, "aria-describedby": `${id}-hint` });
  input.addEventListener("change", () => set(input.value.trim()));
  const list = make("datalist", { id: `${id}-list` }, ...suggestions.map((value) => make("option", { value })));
  if (suggestions.length) input.setAttribute("list", list.id);
  return { nodes: suggestions.length ? [input, list] : [input], show: (text) => showIn(input, text) };
}

const BUILDERS = {
  number: asNumber,
  whole: asNumber,
  flag: asChoice,
  choice: asChoice,
  choices: asChoices,
  colour: asColour,
  colours: asColours,
  rect: asRect,
};
