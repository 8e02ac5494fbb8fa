/* Headers of every request: the page's language for messages, and the CSRF token where there is one. */
export function requestHeaders() {
  const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value;
  return { "Accept-Language": document.documentElement.lang, ...(token && { "X-CSRFToken": token }) };
}
