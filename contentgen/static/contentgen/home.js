/* The page at /: the brief's form, its stream, and the recent streams. */
import { newKey } from "../streaming/page/client.js";
import { requestHeaders } from "../streaming/page/headers.js";
import { Viewer } from "../streaming/page/viewer.js";
import { Draft } from "./draft.js";
import { Recent } from "./recent.js";
import { Kept } from "../streaming/page/storage.js";

const form = document.querySelector("[data-brief]");
const errors = form.querySelector("[data-form-errors]");
const generate = form.querySelector("[data-generate]");
const draft = new Draft(form);
let shown = null; // the id of the stream in the viewer
let asked = null; // a brief whose answer did not come yet, and its key
const recent = new Recent(document, { headers: requestHeaders, owned: Boolean(form.dataset.user) });
const viewer = new Viewer(document.querySelector("[data-viewer]"), {
  headers: requestHeaders,
  onAgain: () => write(),
  onChange: (client) => changed(client),
});

function write() {
  if (viewer.busy) return;
  clearErrors();
  if (form.elements.topic.value.trim() === "") {
    fieldError("topic", gettext("Say what it shall be about."));
    form.elements.topic.focus();
    return;
  }
  const brief = briefOf(form);
  const words = JSON.stringify(brief);
  // Asked for again because no answer came, it is the same task, if it began.
  if (asked?.words !== words) asked = { words, key: newKey() };
  viewer.start(form.action, brief, asked.key);
  if (matchMedia("(max-width: 60rem)").matches) viewer.root.scrollIntoView({ behavior: "smooth" });
}

/** What the fields say; empty ones are left to the server's defaults. */
function briefOf({ elements, dataset }) {
  // A collection has a length of its own, hence namedItem.
  const brief = { user_id: dataset.user || visitor(), length: elements.namedItem("length").value };
  for (const name of ["topic", "category", "tone", "language", "audience", "requirements"]) {
    const value = elements[name].value.trim();
    if (value) brief[name] = value;
  }
  if (elements.writer) [brief.provider, brief.model] = elements.writer.value.split(" ");
  return brief;
}

/** Who this browser is for the fair share, where nobody is signed in. */
function visitor() {
  const kept = new Kept("localStorage", "sluice.visitor");
  const known = kept.get() ?? `visitor-${Math.random().toString(36).slice(2, 12)}`;
  return kept.set(known) ? known : "visitor";
}

function changed(client) {
  // Not `disabled`, which would take the focus away from who pressed it.
  generate.setAttribute("aria-disabled", String(viewer.busy));
  if (client.id === null) return;
  asked = null;
  if (client.id !== shown) {
    shown = client.id;
    // So that a reload, or the address sent to another window, shows the same stream.
    history.replaceState(null, "", `#${shown}`);
    recent.remember(shown, form.elements.topic.value.trim());
  }
  recent.refresh();
}

/** Refusals that name fields are shown at the fields. */
viewer.root.addEventListener("refusal", ({ detail: problem }) => {
  for (const { field, message } of problem.errors ?? []) fieldError(field, message);
});

function fieldError(name, message) {
  const field = form.elements.namedItem(name);
  if (!(field instanceof Element) || !field.labels?.length) {
    errors.textContent = `${errors.textContent} ${name}: ${message}`.trim();
    errors.hidden = false;
    return;
  }
  const text = Object.assign(document.createElement("p"), {
    id: `${name}-error`,
    className: "field-error",
    textContent: message,
  });
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", text.id);
  field.closest("details")?.setAttribute("open", "");
  field.after(text);
}

function clearErrors() {
  errors.hidden = true;
  errors.textContent = "";
  for (const text of form.querySelectorAll(".field-error")) text.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

function showPresets() {
  const chips = JSON.parse(document.getElementById("presets").textContent).map((preset) => {
    const chip = Object.assign(document.createElement("button"), {
      type: "button",
      className: "chip",
      textContent: preset.name,
      disabled: form.querySelector("fieldset").disabled,
    });
    chip.addEventListener("click", () => {
      for (const name of ["topic", "category", "tone"]) form.elements[name].value = preset[name];
      draft.keep();
      clearErrors();
      generate.focus();
    });
    return chip;
  });
  document.querySelector("[data-presets]").replaceChildren(...chips);
}

function showAddressed() {
  const id = location.hash.slice(1);
  if (!/^[0-9a-f]{32}$/.test(id) || id === shown) return;
  shown = id;
  viewer.follow(recent.place(id));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  }
});
addEventListener("hashchange", showAddressed);
draft.restore();
showPresets();
showAddressed();
recent.load();
