// URLs and srcsets as the clients of imgix make them, as JSON: `node urls.mjs HOST TOKEN`.
import ImgixClient from "@imgix/js-core";
import imgixProvider from "@nuxt/image/runtime/providers/imgix";
import { transformProps } from "@unpic/core";
import { transformUrl } from "unpic";
// Nuxt Image keeps this module to itself; inside an application it is a generated import.
import { createImage } from "./node_modules/@nuxt/image/dist/runtime/image.js";

const [host, token] = process.argv.slice(2);
const origin = `https://${host}`;
const thin = "/thin.jpg";
const photo = "/photo.jpg";
const odd = "/ein bild/ä+b (1)'!,~.jpg";

const signed = new ImgixClient({ domain: host, secureURLToken: token, includeLibraryParam: true });
const jsCore = {
  urls: {
    plain: signed.buildURL(photo),
    size: signed.buildURL(photo, { w: 400, h: 300 }),
    crop: signed.buildURL(photo, { rect: "177,0,800,450", w: 400, auto: ["format", "compress"] }),
    focal: signed.buildURL(photo, { w: 200, h: 200, fit: "crop", crop: "focalpoint", "fp-x": 0.3, "fp-z": 2 }),
    odd: signed.buildURL(odd, { w: 100, dl: "a b+ü.jpg" }),
    base64: signed.buildURL(photo, { w: 100, mark64: "logo.png", dl64: "I cannøt 😱.jpg" }),
  },
  srcsets: {
    widths: signed.buildSrcSet(thin),
    range: signed.buildSrcSet(thin, {}, { minWidth: 300, maxWidth: 900, widthTolerance: 0.2 }),
    explicit: signed.buildSrcSet(thin, { auto: "format" }, { widths: [100, 500, 999] }),
    ratios: signed.buildSrcSet(photo, { w: 120 }),
    ratiosByHeight: signed.buildSrcSet(photo, { h: 90 }),
    ratiosFixedQuality: signed.buildSrcSet(photo, { w: 120, h: 90, fit: "crop" }, { disableVariableQuality: true }),
  },
};

const unpic = {
  urls: {
    size: transformUrl({ url: `${origin}${photo}`, width: 400, height: 300, provider: "imgix" }),
    format: transformUrl({ url: `${origin}${photo}`, width: 400, format: "webp", quality: 60, provider: "imgix" }),
    again: transformUrl({ url: `${origin}${photo}?w=999&sat=-100`, width: 400, provider: "imgix" }),
  },
  srcsets: {
    constrained: transformProps({ src: `${origin}${photo}`, width: 400, height: 300, layout: "constrained", fallback: "imgix" }).srcset,
    fixed: transformProps({ src: `${origin}${photo}`, width: 200, height: 150, layout: "fixed", fallback: "imgix" }).srcset,
    fullWidth: transformProps({ src: `${origin}${thin}`, layout: "fullWidth", fallback: "imgix" }).srcset,
  },
};

const $img = createImage({
  provider: "imgix",
  providers: { imgix: { setup: imgixProvider, defaults: { baseURL: origin } } },
  presets: {},
  densities: [1, 2],
  screens: { sm: 640, md: 768 },
  alias: {},
  domains: [],
});
const fits = ["fill", "inside", "outside", "cover", "contain", "clamp", "clip", "fillMax"];
const nuxt = {
  urls: {
    size: $img(photo, { width: 400, height: 300, format: "webp", quality: 70 }),
    many: $img(photo, { width: 90, rotate: 90, backgroundColor: "red", watermarkScale: 20, gaussianBlur: 20, auto: "format" }),
    odd: $img(encodeURI(odd), { width: 100, sourceRectangleRegion: "10,10,200,100" }),
    ...Object.fromEntries(fits.map((fit) => [fit, $img(photo, { width: 300, height: 300, fit })])),
  },
  srcsets: {
    sizes: $img.getSizes(photo, { sizes: "sm:100vw md:50vw", modifiers: { width: 300, height: 225, fit: "cover" } }).srcset,
    densities: $img.getSizes(photo, { densities: "1x 2x", modifiers: { width: 300, height: 225 } }).srcset,
  },
};

console.log(JSON.stringify({ jsCore, unpic, nuxt }));
