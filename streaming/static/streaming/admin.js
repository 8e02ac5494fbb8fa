// The page of a new API key: a button that copies it. Shown by the script, since without one it does nothing.
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      // No clipboard without TLS, or not allowed: the text is selected, Ctrl-C copies it.
      return;
    }
    document.querySelector("[data-copied]").textContent = button.dataset.done;
  });
}
