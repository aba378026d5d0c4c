// What the service says about each parameter of the URL.

import { byId, make, withCode } from "./dom.js";
import { post } from "./service.js";

export async function showExplanation(state, accept) {
  const panel = byId("panel-explain");
  const target = state.target();
  let found;
  try {
    found = await post("/-/playground/explain", { target, accept: accept() });
  } catch (error) {
    return panel.replaceChildren(make("p", { className: "problem" }, error.message));
  }
  if (target !== state.target()) return undefined; // a newer call shows its answer
  const parts = [];
  if (found.error) parts.push(make("p", { className: "problem" }, found.error.detail));
  if (found.parameters.length) parts.push(tableOf(found.parameters));
  else parts.push(make("p", { className: "quiet" }, "No parameters: the answer has the bytes of the original."));
  if (found.vary.length) parts.push(make("p", { className: "quiet" }, `The answer varies by ${found.vary.join(", ")}.`));
  if (found.plan) parts.push(make("details", {}, make("summary", {}, "The plan"), make("code", { className: "block" }, found.plan)));
  return panel.replaceChildren(...parts);
}

function tableOf(lines) {
  const head = make("tr", {}, ...["Parameter", "Came to", "Effect", "Why"].map((text) => make("th", { scope: "col" }, text)));
  const rows = lines.map((line) =>
    make("tr", {},
      make("td", {}, make("code", {}, `${line.name}=${line.text}`), line.source === "url" ? "" : ` from ${line.source}`),
      make("td", {}, make("code", {}, line.value ?? "")),
      make("td", { className: `effect ${line.effect.replace(/ /g, "-")}` }, line.effect),
      make("td", {}, ...withCode(line.why)),
    ),
  );
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "scrolls", tabIndex: 0, role: "region", "aria-label": "Parameters explained" }, table);
}
