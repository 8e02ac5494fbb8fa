/* What is in the form survives a reload and a switch of the language, in this tab. */
import { Kept } from "../streaming/page/storage.js";

const kept = new Kept("sessionStorage", "sluice.draft");

export class Draft {
  constructor(form) {
    this.form = form;
    form.addEventListener("input", () => this.keep());
  }

  keep() {
    const values = [...new FormData(this.form)].filter(([name]) => name !== "csrfmiddlewaretoken");
    kept.set(values); // where that fails, a reload empties the form
  }

  restore() {
    for (const [name, value] of kept.get() ?? []) {
      const field = this.form.elements.namedItem(name);
      if (field && name !== "writer") field.value = value;
    }
  }
}
