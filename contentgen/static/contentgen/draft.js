/* What is in the form survives a reload and a switch of the language, in this tab. */
const KEY = "sluice.draft";

export class Draft {
  constructor(form) {
    this.form = form;
    form.addEventListener("input", () => this.keep());
  }

  keep() {
    const values = [...new FormData(this.form)].filter(([name]) => name !== "csrfmiddlewaretoken");
    try {
      sessionStorage.setItem(KEY, JSON.stringify(values));
    } catch {
      // storage is switched off: a reload empties the form
    }
  }

  restore() {
    for (const [name, value] of this.#kept()) {
      const field = this.form.elements.namedItem(name);
      if (field && name !== "writer") field.value = value;
    }
  }

  #kept() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
    } catch {
      return [];
    }
  }
}
