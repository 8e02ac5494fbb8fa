/*
 * Foreign HTML: in a document of its own without scripts, forms, or anything from the network, in the page's theme.
 *
 * That document is an empty page of the server with a policy of its own (notebooks/pages.py): one that is made here
 * would inherit this page's, which knows no inline styles, and tables have them. It is also read there, so that this
 * page never has foreign HTML of its own.
 */
const TALLEST = 600; // px
const USELESS = "script, noscript, link, meta, base, iframe, frame, object, embed"; // none of it would do anything here
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const place = document.querySelector("[data-frame]")?.dataset.frame;
const frames = new Set();

/** `otherwise()`: an element in its place if nothing is to be seen without scripts, or the server is away. */
export function frame(html, otherwise) {
  const shown = document.createElement("iframe");
  // Its height can be measured, links open elsewhere, scripts stay off.
  shown.setAttribute("sandbox", "allow-same-origin allow-popups allow-popups-to-escape-sandbox");
  shown.setAttribute("referrerpolicy", "no-referrer");
  shown.title = gettext("Output");
  shown.src = place;
  // Once more where its cell is moved.
  shown.addEventListener("load", () => {
    const inside = shown.contentDocument;
    // The page of an error has no mark.
    if (!inside?.documentElement.hasAttribute("data-output-frame")) return shown.replaceWith(otherwise());
    const { body } = inside;
    inside.documentElement.dataset.theme = theme();
    body.replaceChildren(...quiet(new inside.defaultView.DOMParser().parseFromString(html, "text/html")));
    if (!body.innerText.trim() && !body.querySelector("img, svg, table, hr")) return shown.replaceWith(otherwise());
    frames.add(new WeakRef(shown));
    watch(shown, body);
  });
  return shown;
}

/**
 * Without what the sandbox and the policy would stop, most of it with a complaint in the console: they are what keeps
 * foreign HTML harmless, this only keeps it quiet.
 */
function quiet({ head, body }) {
  for (const part of [head, body]) {
    for (const each of part.querySelectorAll(USELESS)) each.remove();
    for (const each of part.querySelectorAll("*")) {
      for (const { name, value } of [...each.attributes]) {
        const foreign = ["src", "srcset", "background", "poster"].includes(name) && !value.trim().startsWith("data:");
        // As a browser reads it: without white space and control characters.
        if (foreign || name.startsWith("on") || /^javascript:/i.test(value.replace(/[\0- ]/g, ""))) each.removeAttribute(name);
      }
    }
    for (const each of part.querySelectorAll("a, area")) {
      each.setAttribute("target", "_blank");
      each.setAttribute("rel", "noopener noreferrer");
    }
  }
  return [...head.childNodes, ...body.childNodes];
}

function watch(shown, body) {
  let width = 0;
  const sizes = new ResizeObserver(() => {
    if (shown.clientWidth === width) return;
    width = shown.clientWidth;
    // With room for a scroll bar, as its contents may be wider.
    const bar = body.scrollWidth > width ? 16 : 0;
    shown.style.height = `${Math.min(body.offsetHeight + 12 + bar, TALLEST)}px`;
  });
  sizes.observe(shown);
}

function theme() {
  return root.dataset.theme ?? (systemDark.matches ? "dark" : "light");
}

addEventListener("themechange", () => {
  for (const each of frames) {
    const shown = each.deref();
    if (shown?.isConnected) shown.contentDocument.documentElement.dataset.theme = theme();
    else frames.delete(each);
  }
});
