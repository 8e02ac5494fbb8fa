/* The page of one stream. */
import { requestHeaders } from "./headers.js";
import { Viewer } from "./viewer.js";

const page = document.querySelector("[data-stream-page]");
const viewer = new Viewer(page.querySelector("[data-viewer]"), { headers: requestHeaders });
viewer.follow(page.dataset.place.replace(/\/view$/, ""));
