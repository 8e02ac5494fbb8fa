/* What every page has: the theme button and the language form. */
const root = document.documentElement;
const toggle = document.querySelector("[data-theme-toggle]");
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function show() {
  toggle.setAttribute("aria-pressed", String(isDark()));
}

toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("sluice.theme", root.dataset.theme);
  } catch {
    // storage is switched off: the choice holds for this page
  }
  show();
  dispatchEvent(new Event("themechange"));
});
systemDark.addEventListener("change", () => {
  show();
  dispatchEvent(new Event("themechange"));
});
show();

// The open stream is in the address's fragment, which the server does not see: carry it over the switch.
document.querySelector("[data-language-form]")?.addEventListener("submit", (event) => {
  event.target.elements.next.value = location.pathname + location.search + location.hash;
});
