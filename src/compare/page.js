"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function matches(row, theme) {
  const verdict = byId("verdict").value;
  const differ = byId("differ");
  return (!byId("theme").value || theme === byId("theme").value)
    && (!verdict || row.querySelector(".cell." + verdict))
    && row.dataset.id.includes(byId("name").value.trim())
    && !(differ && differ.checked && !("differ" in row.dataset));
}

function filter() {
  let shown = 0;
  for (const section of document.querySelectorAll(".theme")) {
    let any = false;
    for (const row of section.querySelectorAll(".row")) {
      row.hidden = !matches(row, section.dataset.theme);
      any ||= !row.hidden;
      shown += row.hidden ? 0 : 1;
    }
    section.hidden = !any;
  }
  byId("none").hidden = shown > 0;
}

// Whatever is shown is put in as text, so that nothing in it is markup.
function add(parent, name, text, kind) {
  const element = parent.appendChild(document.createElement(name));
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function facts(parent, pairs) {
  if (!pairs.some(([, value]) => value)) return;
  const list = parent.appendChild(document.createElement("dl"));
  for (const [name, value] of pairs) {
    if (value) {
      add(list, "dt", name);
      add(list, "dd", value);
    }
  }
}

// Kernels beside each other that did the same are told together.
function together(cells) {
  const groups = [];
  cells.forEach((cell, number) => {
    const last = groups.at(-1);
    if (cell.mark === "not run") return;
    if (last && last.cell.mark === cell.mark && last.cell.message === cell.message) last.kernels.push(data.kernels[number]);
    else groups.push({ cell, kernels: [data.kernels[number]] });
  });
  return groups;
}

function result(parent, id, { kernels, cell }) {
  const block = add(parent, "div", "", "result");
  add(block, "b", kernels.map((kernel) => kernel.label).join(", "));
  add(block, "span", cell.mark, "cell mark " + cell.mark.replaceAll(" ", "-"));
  if (cell.runs > 1) add(block, "span", ` ${cell.failures} of ${cell.runs} runs`);
  facts(block, [["expected", cell.expected], ["reason", cell.reason], ["happened", cell.message], ["at", cell.at]]);
  if (cell.trail && cell.trail.length && cell.mark !== "pass") add(block, "pre", cell.trail.join("\n"));
  const reruns = kernels.filter((kernel) => kernel.rerun).map((kernel) => `${kernel.rerun} --exact ${id}`);
  if (reruns.length) add(block, "pre", reruns.join("\n"), "rerun");
}

function show(id) {
  const claim = data.claims[id];
  const text = byId("text");
  text.replaceChildren();
  add(text, "h3", id);
  add(text, "p", claim.claim);
  facts(text, [["source", claim.source], ["strength", claim.strength],
    ["since", claim.since && "Linux " + claim.since], ["declared", claim.declared]]);
  for (const group of together(claim.cells)) result(text, id, group);
  byId("details").showModal();
  byId("details").scrollTop = 0;
}

byId("filters").addEventListener("input", filter);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
document.querySelector(".table").addEventListener("click", (event) => {
  const row = event.target.closest(".row[data-id]");
  if (row) show(row.dataset.id);
});
byId("details").addEventListener("click", (event) => {
  if (event.target === byId("details")) byId("details").close();
});
// On a phone, a list of many kernels would hide what it is about.
if (matchMedia("(max-width: 48rem)").matches && data.kernels.length > 3) byId("kernels").open = false;
// A link to a claim opens it.
if (location.hash && data.claims[decodeURIComponent(location.hash.slice(1))]) {
  show(decodeURIComponent(location.hash.slice(1)));
}
