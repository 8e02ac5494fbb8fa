/*
 * Headers of every request: the page's language for messages, and the CSRF token where there is one. The
 * cookie's token is the newest: another tab may have signed in since; scripts may not be allowed to see it.
 */
export function requestHeaders() {
  const cookie = document.cookie.match(/(?:^|; )(?:__Host-|__Secure-)?csrftoken=([^;]+)/)?.[1];
  const token = cookie ?? document.querySelector("[name=csrfmiddlewaretoken]")?.value;
  return { "Accept-Language": document.documentElement.lang, ...(token && { "X-CSRFToken": token }) };
}
