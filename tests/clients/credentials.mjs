// The Content Credentials of files, as a web page's reader sees them. `node credentials.mjs` takes a JSON list of {file, type}
// from standard input, and writes one of {state, failures, generations} for each; {error} for a file that has none. The faults of a
// generation are those that its signer found in its parent.
import { readFileSync } from "node:fs";
import init, { WasmReader } from "@contentauth/c2pa-wasm";

const wasm = readFileSync(new URL("./node_modules/@contentauth/c2pa-wasm/pkg/c2pa_bg.wasm", import.meta.url));
await init({ module_or_path: wasm });
const settings = JSON.stringify({ verify: { remote_manifest_fetch: false, ocsp_fetch: false } });

// The manifests of a picture, the newest first, each followed by that of its parent.
function chain(store) {
  const found = [];
  let label = store.active_manifest;
  while (label && store.manifests[label]) {
    const manifest = store.manifests[label];
    const actions = manifest.assertions.filter((one) => one.label.startsWith("c2pa.actions")).flatMap((one) => one.data.actions);
    const parent = (manifest.ingredients ?? []).find((one) => one.relationship === "parentOf");
    const faults = (parent?.validation_results?.activeManifest?.failure ?? []).map((one) => one.code);
    found.push({ signer: manifest.signature_info.common_name, actions: actions.map((one) => one.action), faults });
    label = parent?.active_manifest;
  }
  return found;
}

const answers = [];
for (const { file, type } of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    const reader = await WasmReader.fromBytes(type, readFileSync(file), settings);
    const store = JSON.parse(reader.json());
    const failures = (store.validation_results?.activeManifest?.failure ?? []).map((one) => one.code);
    answers.push({ state: store.validation_state, failures, generations: chain(store) });
  } catch (error) {
    answers.push({ error: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers));
