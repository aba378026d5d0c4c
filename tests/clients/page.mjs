// Runs the examples of docs/clients.md: `node page.mjs FOLDER ORIGIN`. FOLDER has a file for each example. Prints JSON.
// ORIGIN answers instead of https://images.example.com.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { compileScript, parse } from "vue/compiler-sfc";
import imgixProvider from "@nuxt/image/runtime/providers/imgix";
import { createImage } from "./node_modules/@nuxt/image/dist/runtime/image.js";

const [folder, origin] = process.argv.slice(2);
const modules = join(import.meta.dirname, "node_modules");
const text = (name) => readFileSync(join(folder, name), "utf-8");

/** The exports of a module in the folder, bundled with its packages. */
async function load(name) {
  const outfile = join(folder, `${name}.bundle.mjs`);
  const banner = { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' };
  await build({
    entryPoints: [join(folder, name)], outfile, bundle: true, platform: "node", format: "esm", jsx: "automatic",
    nodePaths: [modules], banner, logLevel: "error",
  });
  return import(pathToFileURL(outfile));
}

const key = "2026/03/14/harbour.jpg";
const { src, srcset } = await load("js-core.js");
const old = await load("imgix-core-js.js");
const unpic = await load("unpic.js");
const { picture, WIDTHS } = await load("images.js");

writeFileSync(join(folder, "Picture.jsx"), text("react.jsx"));
writeFileSync(join(folder, "page.jsx"), text("next-page.jsx"));
writeFileSync(
  join(folder, "react-entry.jsx"),
  `import { renderToStaticMarkup } from "react-dom/server";
   import Page from "./page.jsx";
   export const html = renderToStaticMarkup(<Page />);`,
);
const react = await load("react-entry.jsx");

const { descriptor, errors } = parse(text("vue.vue"), { filename: "Picture.vue" });
if (errors.length) throw errors[0];
const compiled = compileScript(descriptor, { id: "picture", inlineTemplate: true, templateOptions: { ssr: true, ssrCssVars: [] } });
writeFileSync(join(folder, "vue-component.js"), compiled.content);
writeFileSync(
  join(folder, "vue-entry.js"),
  `import { createSSRApp } from "vue";
   import { renderToString } from "vue/server-renderer";
   import Picture from "./vue-component.js";
   export const render = (props) => renderToString(createSSRApp(Picture, props));`,
);
const vue = await load("vue-entry.js");

const { default: imageLoader } = await load("next-loader.js");
// deviceSizes and imageSizes, as Next.js has them by default.
const nextWidths = [16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840];

globalThis.defineNuxtConfig = (config) => config;
const { default: nuxtConfig } = await load("nuxt.ts");
const { provider, screens, ...providers } = nuxtConfig.image;
const $img = createImage({
  provider, screens, presets: {}, densities: [1, 2], alias: {}, domains: [],
  providers: { imgix: { setup: imgixProvider, defaults: providers.imgix } },
});
const attribute = (name) => text("nuxt-page.html").match(new RegExp(` ${name}="([^"]+)"`))[1];
const modifiers = { width: Number(attribute("width")), height: Number(attribute("height")), auto: "format" };
const nuxt = $img.getSizes(attribute("src"), { sizes: attribute("sizes"), modifiers });

const { blurhash } = await load("blurhash-fetch.js");
const hash = await blurhash(`${origin}/${key}`);
const { drawPlaceholder } = await load("blurhash-draw.js");
const drawn = [];
const canvas = {
  width: 32, height: 32,
  getContext: () => ({
    createImageData: (width, height) => ({ data: new Uint8ClampedArray(width * height * 4) }),
    putImageData: ({ data }) => drawn.push(...data.slice(0, 4)),
  }),
};
drawPlaceholder(canvas, hash);

console.log(JSON.stringify({
  "js-core": { src, srcset },
  "imgix-core-js": { src: old.src, srcset: old.srcset },
  unpic: { src: unpic.src, srcset: unpic.srcset },
  images: picture(key),
  widths: WIDTHS,
  react: react.html,
  vue: await vue.render({ ...picture(key), alt: "Boats", width: 1280, height: 853 }),
  loader: nextWidths.map((width) => [width, imageLoader({ src: `/${key}`, width, quality: 60 })]),
  nuxt: { src: nuxt.src, srcset: nuxt.srcset },
  hash,
  drawn,
}));
