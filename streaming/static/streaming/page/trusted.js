/*
 * The one place where text becomes HTML (Trusted Types, policy "sluice"): browsers that know them refuse it anywhere
 * else. Who calls says what keeps the text harmless.
 */
const policy = globalThis.trustedTypes?.createPolicy("sluice", { createHTML: (html) => html });

const trusted = (html) => policy?.createHTML(html) ?? html;

/** HTML that the server has cleaned by its allow-list (streaming/rendering.py). */
export function showCleaned(element, html) {
  element.innerHTML = trusted(html);
}

/** A page of this server as a document without a window, in which nothing runs or loads. */
export function inertDocument(html) {
  return new DOMParser().parseFromString(trusted(html), "text/html");
}
