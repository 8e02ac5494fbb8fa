/* What a finished stream cost, from its `complete` event; for other ends what the reader saw. */
import { decimal, duration, number } from "./format.js";

export class Receipt {
  constructor(root) {
    this.rate = root.querySelector("[data-receipt-rate]");
    this.cells = Object.fromEntries(
      [...root.querySelectorAll("[data-receipt]")].map((cell) => [cell.dataset.receipt, cell]),
    );
  }

  clear() {
    for (const cell of Object.values(this.cells)) cell.textContent = "–";
    this.rate.textContent = gettext("Characters per second");
  }

  /** Numbers that grow while the stream runs. */
  count({ events, statuses, reconnects }) {
    this.#set({ events: number(events), statuses: number(statuses), reconnects: number(reconnects) });
  }

  /** `timing` as in `complete` and in records; `usage` and `model` where they are known. */
  fill(timing, { characters, usage = null, model = null }) {
    this.#set({ queue: duration(timing.queued_ms), total: duration(timing.total_ms) });
    if (timing.status_messages !== undefined) this.#set({ statuses: number(timing.status_messages) });
    if (model) this.#set({ model });
    if (timing.first_content_ms === null) return;
    this.#set({ first: duration(timing.first_content_ms) });
    const seconds = (timing.total_ms - timing.first_content_ms) / 1000;
    const tokens = usage?.completion_tokens;
    this.rate.textContent = tokens ? gettext("Tokens per second") : gettext("Characters per second");
    if (seconds > 0) this.#set({ rate: decimal((tokens ?? characters) / seconds) });
  }

  #set(values) {
    for (const [name, text] of Object.entries(values)) this.cells[name].textContent = text;
  }
}
