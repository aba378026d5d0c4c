// Code to copy for what is chosen: plain HTML, Next.js, Nuxt Image and unpic.

import { byId, copy, make } from "./dom.js";
import { sign, urlOf } from "./service.js";

const WIDTHS = [320, 640, 960, 1280, 1920];
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
  const urls = targets.map(urlOf);
  const middle = urls[Math.floor((urls.length - 1) / 2)];
  const path = state.target().split("?")[0];
  const origin = urlOf("/").replace(/\/$/, "");
  const others = Object.fromEntries(state.names().filter((name) => !["w", "h", "q"].includes(name)).map((name) => [name, state.get(name)]));
  const height = atWidth(state, 800).h;
  const size = `width={800} height={${height ?? heightOf(state, 800)}}`;
  const about = facts.signed
    ? "// This service can require signatures. A loader also runs in the browser, where no token may be: sign on the server.\n"
    : "";
  return [
    {
      title: "HTML",
      code: `<img\n  src="${escaped(middle)}"\n  srcset="${urls.map((url, index) => `${escaped(url)} ${widths[index]}w`).join(",\n    ")}"\n  sizes="${SIZES}"\n  width="800" height="${height ?? heightOf(state, 800)}" alt="" loading="lazy">`,
    },
    {
      title: "Next.js",
      code: `// image-loader.js; next.config.js: images: { loader: "custom", loaderFile: "./image-loader.js" }\n${about}export default function imageLoader({ src, width, quality }) {\n  const url = new URL(src, ${JSON.stringify(origin)});\n  const parameters = ${JSON.stringify(others)};\n  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);\n  url.searchParams.set("w", width);\n  if (quality) url.searchParams.set("q", quality);\n  return url.href;\n}\n\n// <Image src=${JSON.stringify(path)} ${size} sizes="${SIZES}" alt="" />`,
    },
    {
      title: "Nuxt Image",
      code: `// nuxt.config.ts: image: { provider: "imgix", imgix: { baseURL: ${JSON.stringify(origin)} } }\n<NuxtImg\n  src="${path}"\n  :modifiers='${escapedSingle(JSON.stringify(others))}'\n  width="800"\n  sizes="100vw lg:960px" alt="" />`,
    },
    {
      title: "unpic",
      code: `// import { Image } from "@unpic/react"; // or vue, svelte, astro\n<Image\n  src=${JSON.stringify(urlOf(state.target({ w: null, h: null })))}\n  fallback="imgix" layout="constrained" ${size} alt="" />`,
    },
  ];
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
const escapedSingle = (text) => text.replace(/&/g, "&amp;").replace(/'/g, "&#39;");
