// Purge and revoke: the receipt, node by node in a cluster, and then the picture asked for again.

import { byId, bytesInWords, make } from "./dom.js";
import { get, post } from "./service.js";

const POLL_MS = 150;
const POLLS_MAX = 60;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export class Purge {
  #state;
  #facts;
  #again;
  #steps = make("ol", { className: "steps", "aria-live": "polite" });
  #buttons;

  /** `again()` loads original and result again, and returns what came, or the error. */
  constructor(state, facts, again) {
    this.#state = state;
    this.#facts = facts;
    this.#again = again;
    this.#buttons = {
      purge: this.#button("Purge", () => this.#purge()),
      revoke: this.#button("Revoke in the library", () => this.#setRevoked(true)),
      unrevoke: this.#button("Bring it back", () => this.#setRevoked(false)),
    };
    const words = "Purge: every stored size is deleted, and the next request fetches the original again. " + (facts.revocable
      ? "Revoke: the library tells the service by webhook, and the picture is gone in every size."
      : "Pictures are revoked in the Media Library.");
    byId("panel-purge").replaceChildren(
      make("p", { className: "quiet" }, words),
      make("div", { className: "line" }, ...Object.values(this.#buttons)),
      this.#steps,
    );
    this.show();
    state.addEventListener("picture", () => {
      this.#steps.replaceChildren();
      this.show();
    });
  }

  show() {
    const picture = this.#state.picture;
    this.#buttons.revoke.hidden = !this.#facts.revocable || !picture?.entry || picture.revoked;
    this.#buttons.unrevoke.hidden = !this.#facts.revocable || !picture?.revoked;
  }

  #button(text, work) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      button.setAttribute("aria-disabled", "true");
      try {
        await work();
      } catch (error) {
        this.#say(make("span", { className: "problem" }, error.message));
      } finally {
        button.removeAttribute("aria-disabled");
        const hadFocus = document.activeElement === button;
        this.show();
        if (hadFocus && button.hidden) Object.values(this.#buttons).find(({ hidden }) => !hidden)?.focus();
      }
    });
    return button;
  }

  async #purge() {
    const { entry, key } = this.#state.picture;
    this.#steps.replaceChildren();
    const receipt = entry
      ? await post(`/-/purge/entries/${encodeURIComponent(entry)}`)
      : await post("/-/purge/keys", { keys: [key] });
    await this.#follow(receipt);
    await this.#askAgain();
  }

  async #setRevoked(isRevoked) {
    const picture = this.#state.picture;
    this.#steps.replaceChildren();
    const before = (await this.#latest())?.seq ?? 0;
    await post(`/-/playground/${isRevoked ? "revoke" : "unrevoke"}/${encodeURIComponent(picture.entry)}`);
    picture.revoked = isRevoked;
    this.#say(isRevoked ? "Revoked in the library. It calls the webhook." : "Active again in the library. It calls the webhook.");
    for (let poll = 0; poll < POLLS_MAX; poll += 1) {
      const receipt = await this.#latest();
      if (receipt && receipt.seq > before) {
        await this.#follow(receipt);
        break;
      }
      await wait(POLL_MS);
    }
    await this.#askAgain();
  }

  async #latest() {
    const { purges } = await get(`/-/purges?limit=1&entry=${encodeURIComponent(this.#state.picture.entry)}`);
    return purges[0];
  }

  /** Show a receipt, and read it again until nothing is pending. */
  async #follow(receipt) {
    const item = this.#say(...receiptInWords(receipt));
    for (let poll = 0; receipt.pending && poll < POLLS_MAX; poll += 1) {
      await wait(POLL_MS);
      receipt = await get(`/-/purges/${receipt.seq}`);
      item.replaceChildren(...receiptInWords(receipt));
    }
  }

  async #askAgain() {
    const answer = await this.#again();
    if (!answer) return;
    this.#say(answer instanceof Error ? `Asked for it again: ${answer.message}` : `Asked for it again: ${answer.outcome}.`);
  }

  #say(...content) {
    const item = make("li", {}, ...content);
    this.#steps.append(item);
    return item;
  }
}

function receiptInWords(receipt) {
  const deleted = `${receipt.variants} ${receipt.variants === 1 ? "variant" : "variants"}, ${bytesInWords(receipt.bytes)} deleted`;
  const parts = [`Purge ${receipt.seq}: ${deleted} in ${receipt.ms} ms${receipt.pending ? "; not finished yet" : ""}.`];
  const places = [
    ...(receipt.nodes ?? []).map((node) => `${node.name}: ${node.state} after ${node.ms} ms`),
    ...receipt.downstream.map((item) => `${item.name}: ${item.state}${item.detail ? `, ${item.detail}` : ""}`),
  ];
  if (places.length) parts.push(make("ul", {}, ...places.map((text) => make("li", {}, text))));
  return parts;
}
