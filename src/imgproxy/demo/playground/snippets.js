// Code to copy for what is chosen: plain HTML, Next.js, Nuxt Image and unpic.

import { byId, copy, make } from "./dom.js";
import { sign, urlOf } from "./service.js";

const WIDTHS = [320, 640, 960, 1280, 1920];
const SHOWN = 800; // the width of the place that the picture has in the page
// Nuxt Image has its own words for `fit`, and turns them into those of imgix (its provider `imgix`, valueMap).
const NUXT_FITS = { scale: "fill", max: "inside", min: "outside", crop: "cover", fill: "contain", fillmax: "fillMax" };
const SIZES = "(min-width: 60rem) 60rem, 100vw";

/** Return the parameters of a width: a height that is given, too, keeps its ratio. */
function atWidth(state, width) {
  const [chosen, height] = [Number(state.get("w")), Number(state.get("h"))];
  const isBox = chosen > 1 && height > 1;
  return isBox ? { w: width, h: Math.round((height * width) / chosen) } : { w: width, h: null };
}

/** The widths of a srcset: those that the service renders, up to that of the region that is shown. */
function widthsFor(state, ladder) {
  const region = Number(state.get("rect").split(",")[2]) || state.source?.width || Infinity;
  const steps = (ladder.length ? ladder : WIDTHS).filter((width) => width <= region);
  return steps.length ? steps : [Math.round(region)];
}

/** Make the snippets. Each is {title, code}. */
export async function snippetsOf(state, facts) {
  const widths = widthsFor(state, facts.widths);
  const targets = await sign(widths.map((width) => state.target(atWidth(state, width))));
  const names = state.names().filter((name) => !["w", "h", "q"].includes(name));
  const chosen = {
    widths,
    urls: targets.map(urlOf),
    path: state.target().split("?")[0],
    origin: urlOf("/").replace(/\/$/, ""),
    parameters: Object.fromEntries(names.map((name) => [name, state.get(name)])),
    height: atWidth(state, SHOWN).h ?? heightOf(state, SHOWN),
    withoutSize: urlOf(state.target({ w: null, h: null })),
    isSigned: facts.signed,
  };
  return [
    { title: "HTML", code: html(chosen) },
    { title: "Next.js", code: next(chosen) },
    { title: "Nuxt Image", code: nuxt(chosen) },
    { title: "unpic", code: unpic(chosen) },
  ];
}

function html({ urls, widths, height }) {
  return [
    "<img",
    `  src="${escaped(urls[Math.floor((urls.length - 1) / 2)])}"`,
    `  srcset="${urls.map((url, index) => `${escaped(url)} ${widths[index]}w`).join(",\n    ")}"`,
    `  sizes="${SIZES}"`,
    `  width="${SHOWN}" height="${height}" alt="" loading="lazy">`,
  ].join("\n");
}

function next({ path, origin, parameters, height, isSigned }) {
  const lines = [
    '// image-loader.js; next.config.js: images: { loader: "custom", loaderFile: "./image-loader.js" }',
    "export default function imageLoader({ src, width, quality }) {",
    `  const url = new URL(src, ${JSON.stringify(origin)});`,
    `  const parameters = ${JSON.stringify(parameters)};`,
    "  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);",
    '  url.searchParams.set("w", width);',
    '  if (quality) url.searchParams.set("q", quality);',
    "  return url.href;",
    "}",
    "",
    `// <Image src=${JSON.stringify(path)} width={${SHOWN}} height={${height}} sizes="${SIZES}" alt="" />`,
  ];
  if (isSigned) lines.unshift("// A loader also runs in the browser, where no signing token may be. Where signatures are required, sign on the server.");
  return lines.join("\n");
}

function nuxt({ path, origin, parameters, height }) {
  const modifiers = parameters.fit in NUXT_FITS ? { ...parameters, fit: NUXT_FITS[parameters.fit] } : parameters;
  return [
    `// nuxt.config.ts: image: { provider: "imgix", imgix: { baseURL: ${JSON.stringify(origin)} } }`,
    "<NuxtImg",
    `  src="${path}"`,
    `  :modifiers='${JSON.stringify(modifiers).replace(/&/g, "&amp;").replace(/'/g, "&#39;")}'`,
    `  width="${SHOWN}" height="${height}" sizes="100vw lg:960px" alt="" />`,
  ].join("\n");
}

function unpic({ withoutSize, height }) {
  return [
    '// import { Image } from "@unpic/react"; // or vue, svelte, astro',
    "<Image",
    `  src=${JSON.stringify(withoutSize)}`,
    `  fallback="imgix" layout="constrained" width={${SHOWN}} height={${height}} alt="" />`,
  ].join("\n");
}

export async function showSnippets(state, facts) {
  const asked = state.target();
  const snippets = await snippetsOf(state, facts);
  if (asked !== state.target()) return; // a newer call shows its code
  const list = byId("snippets");
  const opened = new Set([...list.querySelectorAll("details[open]")].map(({ id }) => id));
  list.replaceChildren(
    ...snippets.map(({ title, code }) => {
      const id = `snippet-${title.toLowerCase().replace(/[^a-z]/g, "")}`;
      const button = make("button", { type: "button", "aria-label": `Copy the code for ${title}` }, "Copy");
      button.addEventListener("click", () => copyAndSay(code, `The code for ${title}`));
      return make("details", { id, open: opened.size ? opened.has(id) : title === "HTML" },
        make("summary", {}, title), make("div", { className: "code" }, make("pre", { tabIndex: 0, "aria-label": `Code for ${title}` }, code), button));
    }),
  );
}

export async function copyAndSay(text, what) {
  await copy(text);
  byId("copied").textContent = `${what} is copied.`;
}

function heightOf(state, width) {
  const [, , w, h] = state.get("rect").split(",").map(Number);
  const ratio = w && h ? h / w : state.source ? state.source.height / state.source.width : 2 / 3;
  return Math.round(width * ratio);
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/"/g, "&quot;");
