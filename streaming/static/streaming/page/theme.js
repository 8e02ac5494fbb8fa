/* Runs before the first paint, so that the page does not flash in the other theme. */
(() => {
  const root = document.documentElement;
  const stored = () => {
    try {
      return localStorage.getItem("sluice.theme");
    } catch {
      return null; // storage is switched off: the system's theme
    }
  };
  const theme = stored();
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
})();
