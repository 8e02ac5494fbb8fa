/* Foreign HTML: a document of its own without scripts, forms, or anything from the network, in the page's theme. */
const POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:";
const TALLEST = 600; // px
const USELESS = "script, noscript, link, meta, base, iframe, frame, object, embed"; // none of it would do anything here
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const frames = new Set();

/** `otherwise()`: an element in its place if nothing is to be seen without scripts. */
export function frame(html, otherwise) {
  const shown = document.createElement("iframe");
  // Its height can be measured, links open elsewhere, scripts stay off.
  shown.setAttribute("sandbox", "allow-same-origin allow-popups allow-popups-to-escape-sandbox");
  shown.setAttribute("referrerpolicy", "no-referrer");
  shown.title = gettext("Output");
  shown.srcdoc = `<!doctype html><html data-theme="${theme()}"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${POLICY}">
<base target="_blank"><style>${STYLE}</style><body>${quiet(html)}`;
  shown.addEventListener("load", () => {
    const body = shown.contentDocument?.body;
    if (!body) return;
    if (!body.innerText.trim() && !body.querySelector("img, svg, table, hr")) return shown.replaceWith(otherwise());
    frames.add(new WeakRef(shown));
    watch(shown, body);
  });
  return shown;
}

/**
 * Without what the sandbox and the policy would stop, one complaint in the console for each: they are what keeps
 * foreign HTML harmless, this only keeps it quiet.
 */
function quiet(html) {
  const { head, body } = new DOMParser().parseFromString(html, "text/html");
  for (const part of [head, body]) {
    for (const each of part.querySelectorAll(USELESS)) each.remove();
    for (const each of part.querySelectorAll("*")) {
      for (const { name, value } of [...each.attributes]) {
        const foreign = ["src", "srcset", "background", "poster"].includes(name) && !value.trim().startsWith("data:");
        if (foreign || name.startsWith("on") || /^\s*javascript:/i.test(value)) each.removeAttribute(name);
      }
    }
  }
  return head.innerHTML + body.innerHTML;
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

const STYLE = `
:root { color-scheme: light; --card: #fff; --text: #12222b; --line: #d8e1e6; --strong: #9bb0bb; --soft: #f3f6f8; --link: #0b7285; }
:root[data-theme="dark"] { color-scheme: dark; --card: #121c22; --text: #e4edf1; --line: #26353e; --strong: #526672; --soft: #1a262d; --link: #4cc6d8; }
html { font: 14px/1.45 system-ui, sans-serif; background: var(--card); color: var(--text); }
body { margin: 6px; } a { color: var(--link); }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; border: 0; }
th, td { padding: .3rem .7rem; text-align: right; border: 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--strong); } tbody tr:nth-child(even) { background: var(--soft); }
img, svg { max-width: 100%; height: auto; }`;
