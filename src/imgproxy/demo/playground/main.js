// The page: asks for the token, then puts the parts together.

import { Compare } from "./compare.js";
import { buildControls } from "./controls.js";
import { byId, settled } from "./dom.js";
import { showExplanation } from "./explain.js";
import { Original } from "./original.js";
import { Pictures } from "./pictures.js";
import { Purge } from "./purge.js";
import { Result } from "./result.js";
import { forgetToken, get, hasToken, keepToken, sign, takeTokenOfUrl, urlOf } from "./service.js";
import { copyAndSay, showSnippets } from "./snippets.js";
import { State } from "./state.js";

const START = { w: "800", auto: "format" };
const AFTER_CHANGE_MS = 120;

async function open() {
  const table = await (await fetch("playground/table.json")).json();
  byId("version").textContent = table.version;
  takeTokenOfUrl();
  const facts = hasToken() ? await tryToken() : null;
  if (facts) return begin(table, facts);
  const form = byId("token-form");
  form.hidden = false;
  byId("token").focus();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    keepToken(byId("token").value.trim());
    const found = await tryToken();
    if (!found) return;
    form.hidden = true;
    begin(table, found);
  });
}

/** Return what the service says about itself, or null if it refuses the token. */
async function tryToken() {
  try {
    return await get("/-/playground/facts");
  } catch (error) {
    forgetToken();
    byId("token-problem").textContent = error.status === 401 ? "The service refuses this token." : error.message;
    return null;
  }
}

function begin(table, facts) {
  const state = new State();
  const accept = () => byId("accept").value;
  buildControls(state, table, facts.presets);
  const original = new Original(state, accept, facts);
  const result = new Result(state, accept, facts);
  const compare = new Compare(state);
  const pictures = new Pictures(state);
  const again = async () => (await Promise.all([result.load(), original.load(), pictures.list()]))[0];
  new Purge(state, facts, again);

  const panels = {
    url: () => showUrl(state, facts),
    explain: () => showExplanation(state, accept),
    compare: () => compare.load(),
    purge: () => undefined,
  };
  const showPanel = connectTabs(panels, () => state.picture !== null);
  const update = settled(() => {
    if (!state.picture) return;
    result.load();
    showPanel();
  }, AFTER_CHANGE_MS);
  state.addEventListener("parameters", update);
  state.addEventListener("source", () => byId("panel-url").hidden || showUrl(state, facts)); // widths, up to the original's
  byId("accept").addEventListener("change", update);
  byId("copy-url").addEventListener("click", () => copyAndSay(byId("url").value, "The URL"));

  byId("app").hidden = false;
  state.set(START);
  pictures.list();
}

async function showUrl(state, facts) {
  try {
    const asked = state.target();
    const [target] = await sign([asked]);
    if (asked !== state.target()) return; // a newer call shows its URL
    byId("url").value = urlOf(target);
    byId("copied").textContent = "";
    await showSnippets(state, facts);
  } catch (error) {
    byId("copied").textContent = error.message;
  }
}

/** Connect the tabs, with arrows as in the ARIA pattern. Returns what shows the open panel anew. */
function connectTabs(panels, isReady) {
  const names = Object.keys(panels);
  let opened = names[0];
  const select = (name, isFocused) => {
    opened = name;
    for (const each of names) {
      const tab = byId(`tab-${each}`);
      tab.setAttribute("aria-selected", String(each === name));
      tab.tabIndex = each === name ? 0 : -1;
      byId(`panel-${each}`).hidden = each !== name;
    }
    if (isFocused) byId(`tab-${name}`).focus();
    if (isReady()) panels[name]();
  };
  names.forEach((name, index) => {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => select(name, false));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) select(names[(index + step + names.length) % names.length], true);
    });
  });
  return () => panels[opened]();
}

open();
