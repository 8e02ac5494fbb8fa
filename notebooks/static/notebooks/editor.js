/* A plain textarea that knows a little of Python's indentation. Whatever it types, the browser can undo. */
const INDENT = "    ";
const ROWS = { least: 2, most: 30 };

/** Calls `leave()` on Escape, `run(then)` on Shift, Ctrl and Alt with Enter: `next`, `stay`, `insert`. */
export function edit(field, { leave, run }) {
  field.addEventListener("input", () => fit(field));
  field.addEventListener("keydown", (event) => {
    const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
    // While an input method composes, its keys are its own.
    if (event.isComposing || event.keyCode === 229) return;
    if (key === "Enter" && (shiftKey || ctrlKey || metaKey || altKey)) {
      event.preventDefault();
      run(shiftKey ? "next" : altKey ? "insert" : "stay");
    } else if (key === "Escape") {
      leave(); // so that Tab moves on
    } else if (field.readOnly || ctrlKey || metaKey || altKey) {
      // the browser's
    } else if (key === "Tab") {
      event.preventDefault();
      indent(field, shiftKey);
    } else if (key === "Enter") {
      event.preventDefault();
      newLine(field);
    }
  });
}

/** As high as its text, within reason. */
export function fit(field) {
  const lines = field.value.split("\n").length;
  // The bar below lines that are wider takes a line's room.
  const wide = field.scrollWidth > field.clientWidth ? 1 : 0;
  field.rows = Math.min(Math.max(lines + wide, ROWS.least), ROWS.most);
}

function indent(field, back) {
  const { value, selectionStart: from, selectionEnd: to } = field;
  if (from === to && !back) return type(field, INDENT);
  const first = value.lastIndexOf("\n", from - 1) + 1;
  const lines = value.slice(first, to).split("\n");
  const changed = lines.map((line) => (back ? line.replace(/^ {1,4}/, "") : INDENT + line)).join("\n");
  const shift = changed.length - (to - first);
  if (shift === 0) return undefined;
  field.setSelectionRange(first, to);
  type(field, changed);
  // A caret stays at its place in the line, a selection covers its lines.
  if (from === to) field.setSelectionRange(Math.max(first, from + shift), Math.max(first, from + shift));
  else field.setSelectionRange(first, to + shift);
  return undefined;
}

function newLine(field) {
  const { value, selectionStart } = field;
  const line = value.slice(value.lastIndexOf("\n", selectionStart - 1) + 1, selectionStart);
  type(field, `\n${line.match(/^ */)[0]}${/:\s*$/.test(line) ? INDENT : ""}`);
}

function type(field, text) {
  field.focus();
  const done = text === "" ? document.execCommand("delete") : document.execCommand("insertText", false, text);
  if (done) return;
  field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new Event("input", { bubbles: true }));
}
