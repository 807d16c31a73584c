"use strict";
const zone = document.getElementById("zone"), input = document.getElementById("files");
const status = document.getElementById("status"), answers = document.getElementById("answers");
let waiting = [], running = false, done = 0, total = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function figure(caption) {
  const made = element("figure"), place = element("div", "empty");
  made.append(place, element("figcaption", "", caption));
  made.show = (blob, alt) => {
    const image = element("img");
    image.alt = alt;
    image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    made.firstChild.replaceWith(image);
  };
  return made;
}

const percent = share => (100 * share).toFixed(1) + " %";

function card(file) {
  const made = element("article", "answer"), title = element("h2", "", "…");
  const views = element("div", "views"), picture = figure("The image"), heat = figure("What speaks for the class");
  views.append(picture, heat);
  picture.show(file, file.name || "the image");
  made.append(title, element("p", "file", file.name || "pasted image"), views);
  answers.prepend(made);
  return { made, title, views, picture, heat };
}

async function reason(response) {
  try { return (await response.json()).detail; } catch { return `The server answers ${response.status}.`; }
}

async function send(path, file) {
  const body = new FormData();
  body.append("files", file);
  const response = await fetch(path, { method: "POST", body });
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

function fill(shown, answer) {
  const isClass = !answer.answer || answer.answer === answer.label;
  shown.title.textContent = isClass ? `${answer.label} ${percent(answer.probability)}` : answer.answer;
  if (!isClass) shown.title.classList.add("problem");
  const bars = element("ul", "bars");
  for (const { label, probability } of answer.top) {
    const row = element("li"), name = element("div", "name"), meter = element("meter");
    name.append(element("span", "", label), element("span", "", percent(probability)));
    meter.max = 1;
    meter.value = probability;
    meter.setAttribute("aria-label", `probability of ${label}`);
    row.append(name, meter);
    bars.append(row);
  }
  shown.made.append(bars);
  if (answer.classes) shown.made.append(element("p", "note", `One of: ${answer.classes.join(", ")}`));
}

async function classify(file) {
  const shown = card(file);
  try {
    const answer = (await (await send("predict?top=5", file)).json()).predictions[0];
    fill(shown, answer);
    shown.heat.lastChild.textContent = `What speaks for ${answer.label}`;
    const picture = await (await send("explain", file)).blob();
    shown.heat.show(picture, `Heat map: the brighter, the more a place speaks for ${answer.label}`);
  } catch (error) {
    if (shown.title.textContent === "…") shown.title.textContent = "No answer";
    if (shown.heat.firstChild.className === "empty") shown.heat.remove();
    const image = shown.picture.firstChild;
    if (image.complete && !image.naturalWidth) shown.views.remove();  // no browser shows it either
    shown.made.append(element("p", "problem", error.message));
  }
}

async function work() {
  if (running) return;
  running = true;
  while (waiting.length) {
    status.textContent = `${done + 1} of ${total} …`;
    await classify(waiting.shift());
    done += 1;
  }
  status.textContent = total === 1 ? "1 image" : `${total} images`;
  running = false;
}

function take(files) {
  const list = [...files];
  total += list.length;
  waiting.push(...list);
  work();
}

input.addEventListener("change", () => { take(input.files); input.value = ""; });
document.addEventListener("paste", event => take(event.clipboardData.files));
for (const name of ["dragover", "dragenter"]) document.addEventListener(name, event => {
  event.preventDefault();
  zone.classList.add("over");
});
document.addEventListener("dragleave", event => { if (!event.relatedTarget) zone.classList.remove("over"); });
document.addEventListener("drop", event => {
  event.preventDefault();
  zone.classList.remove("over");
  take(event.dataTransfer.files);
});
