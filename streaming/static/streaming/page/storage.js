/* A value that this browser keeps under a key. Where storage is switched off or full, it keeps nothing. */
export class Kept {
  /** `area`: `localStorage`, or `sessionStorage` for this tab alone. */
  constructor(area, key) {
    Object.assign(this, { area, key });
  }

  /** The value; null where there is none, or none that can be read. */
  get() {
    try {
      return JSON.parse(window[this.area].getItem(this.key));
    } catch {
      return null;
    }
  }

  /** Whether it is kept from now on. */
  set(value) {
    try {
      window[this.area].setItem(this.key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  /** Keep nothing any more. */
  drop() {
    try {
      window[this.area].removeItem(this.key);
    } catch {
      // storage is switched off: there is nothing
    }
  }
}
