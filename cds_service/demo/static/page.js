// The chart page: fires patient-view on opening, order-select when an order is added, order-sign on signing.

import { byUrgency, el, showCard } from "./cards.js";
import { Client, problemOf } from "./hooks.js";

const $ = (id) => document.getElementById(id);
const patientId = document.querySelector("main.chart").dataset.patient;
const client = new Client(logCall);
const discovered = client.discover();
const chart = await (await fetch(`/demo/patients/${encodeURIComponent(patientId)}/order-entry`)).json();

let drafts = []; // {resource, note}
let open = []; // order cards nobody has answered yet
let counter = 0;

// ------------------------------------------------------------------------------------------------------- asking

async function ask(hook, context, place) {
  place.replaceChildren(el("p", { class: "quiet busy" }, "Asking …"));
  await discovered;
  const services = client.listening(hook);
  if (!services.length) {
    place.replaceChildren(el("p", { class: "quiet" }, "No service listens to this hook."));
    return [];
  }
  const withPrefetch = $("send-prefetch").checked;
  const whole = { patientId, encounterId: chart.encounterId, ...context };
  const calls = await Promise.all(
    services.map(async (service) => ({ service, call: await client.fire(service, whole, withPrefetch) })),
  );
  const found = calls.flatMap(({ service, call }) => (call.body?.cards ?? []).map((card) => ({ service, card })));
  const items = found.sort(byUrgency).map((item) => ({ ...item, answered: false }));
  place.replaceChildren(...items.map((item) => showCard(item.card, answering(item))), ...said(calls, items));
  return items;
}

function said(calls, items) {
  const lines = calls
    .filter(({ call }) => !call.ok)
    .map(({ service, call }) => el("p", { class: "quiet failed" }, `${service.title ?? service.id}: ${problemOf(call)}`));
  const silent = calls.filter(({ call }) => call.ok && !call.body?.cards?.length).map(({ service }) => service.title ?? service.id);
  if (silent.length) {
    const words = items.length ? "Nothing more from" : "Nothing to advise:";
    lines.push(el("p", { class: "quiet" }, `${words} ${silent.join(", ")} (${Math.max(...calls.map(({ call }) => call.ms))} ms)`));
  }
  return lines;
}

function answering(item) {
  const now = () => new Date().toISOString();
  const tell = (outcome) => item.card.uuid && client.feedback(item.service.id, [{ card: item.card.uuid, outcomeTimestamp: now(), ...outcome }]);
  return {
    accept(suggestion) {
      item.answered = true;
      for (const action of suggestion.actions ?? []) apply(action, suggestion.label);
      showDrafts();
      if (suggestion.uuid) tell({ outcome: "accepted", acceptedSuggestions: [{ id: suggestion.uuid }] });
    },
    override(reason, comment) {
      item.answered = true;
      showDrafts();
      const given = {};
      if (reason) given.reason = { code: reason.code, system: reason.system, display: reason.display };
      if (comment) given.userComment = comment;
      tell({ outcome: "overridden", ...(Object.keys(given).length ? { overrideReason: given } : {}) });
    },
  };
}

// ------------------------------------------------------------------------------------------------------- drafts

const reference = (resource) => `${resource.resourceType}/${resource.id}`;
const words = (concept) => concept?.text ?? concept?.coding?.[0]?.display ?? concept?.coding?.[0]?.code;

function titleOf(resource) {
  const what = words(resource.code ?? resource.medicationCodeableConcept) ?? resource.description ?? resource.resourceType;
  const dose = resource.dosageInstruction?.[0]?.text;
  return dose ? `${what}, ${dose}` : what;
}

function apply(action, label) {
  const resource = action.resource;
  if (action.type === "delete") {
    drafts = drafts.filter((draft) => reference(draft.resource) !== action.resourceId);
  } else if (action.type === "create") {
    drafts.push({ resource: { ...resource, id: resource.id ?? nextId() }, note: "added by suggestion" });
  } else {
    const draft = drafts.find((candidate) => reference(candidate.resource) === reference(resource));
    if (draft) {
      draft.note = `changed by suggestion, was: ${titleOf(draft.resource)}`;
      draft.resource = resource;
    } else {
      changeChart(resource, label);
    }
  }
}

function changeChart(resource, label) {
  drafts.push({ resource, note: `change to the chart: ${resource.status ?? "updated"}` });
  const shown = document.querySelector(`[data-reference="${CSS.escape(reference(resource))}"]`);
  if (shown && !shown.querySelector(".change")) shown.append(el("span", { class: "change" }, resource.status ?? label));
}

const nextId = () => `draft-${(counter += 1)}`;

function showDrafts() {
  $("drafts").replaceChildren(...drafts.map((draft) => el("li", {},
    el("div", {}, el("strong", {}, titleOf(draft.resource)), draft.note ? el("small", { class: "note" }, draft.note) : null,
      el("small", {}, draft.resource.status ?? "")),
    el("button", { type: "button", class: "remove", "aria-label": `Remove ${titleOf(draft.resource)}`, onclick: () => {
      drafts = drafts.filter((other) => other !== draft);
      showDrafts();
    } }, "Remove"),
  )));
  const waiting = open.filter((item) => !item.answered && item.card.indicator !== "info");
  const critical = waiting.some((item) => item.card.indicator === "critical");
  $("sign").disabled = !drafts.length || critical;
  $("sign").textContent = waiting.length && !critical ? "Sign anyway" : "Sign orders";
  $("sign").classList.toggle("sign-anyway", waiting.length > 0 && !critical);
  $("sign").dataset.asked = String(waiting.length > 0);
  if (drafts.length) $("signed").textContent = critical ? "A critical card needs an answer before signing." : "";
}

const bundle = () => ({ resourceType: "Bundle", type: "collection", entry: drafts.map(({ resource }) => ({ resource })) });

async function add(resources) {
  const added = resources.map((resource) => ({ resource: { ...structuredClone(resource), id: nextId() }, note: "" }));
  drafts.push(...added);
  open = [];
  showDrafts();
  $("signed").textContent = "";
  const selections = added.map(({ resource }) => reference(resource));
  open = await ask("order-select", { selections, draftOrders: bundle() }, $("order-answers"));
  showDrafts();
}

async function sign() {
  if ($("sign").dataset.asked !== "true" || $("sign").dataset.hook !== "order-sign") {
    $("sign").disabled = true;
    open = await ask("order-sign", { draftOrders: bundle() }, $("order-answers"));
    $("sign").dataset.hook = "order-sign";
    showDrafts();
    if (open.some((item) => item.card.indicator !== "info")) return;
  }
  const count = drafts.length;
  drafts = [];
  open = [];
  $("sign").dataset.hook = "";
  showDrafts();
  $("signed").textContent = `${count} ${count === 1 ? "order" : "orders"} signed.`;
}

// ------------------------------------------------------------------------------------------------------- the log

function logCall(call) {
  const path = call.url.replace(location.origin, "");
  const body = (title, value) => value === undefined || value === null ? null
    : el("details", {}, el("summary", {}, title), el("pre", { tabindex: "0" }, JSON.stringify(value, null, 2)));
  $("wire-log").prepend(el("li", {},
    el("p", {}, el("code", {}, `${call.method} ${path}`), el("span", { class: call.ok ? "ok" : "bad" }, `${call.status || "failed"} · ${call.ms} ms`)),
    body("request", call.request), body("answer", call.body)));
}

// ---------------------------------------------------------------------------------------------------- the page

chart.catalogue.forEach((order, index) => $("catalogue").append(el("option", { value: String(index) }, order.title)));
$("add-form").addEventListener("submit", (event) => {
  event.preventDefault();
  add(chart.catalogue[Number($("catalogue").value)].drafts);
});
$("sign").addEventListener("click", sign);
if (chart.scenario.length) {
  $("suggested").hidden = false;
  $("suggested").append(el("p", {}, "In this scenario"), ...chart.scenario.map((order) =>
    el("button", { type: "button", onclick: () => add(order.drafts) }, order.title)));
}
for (const film of document.querySelectorAll("a.film")) {
  film.addEventListener("click", (event) => {
    event.preventDefault();
    const dialog = el("dialog", { class: "viewer", "aria-label": "Film, enlarged", onclick: () => dialog.close(), onclose: () => dialog.remove() },
      el("img", { src: film.href, alt: film.querySelector("img").alt }), el("button", { type: "button" }, "Close"));
    document.body.append(dialog);
    dialog.showModal();
  });
}
document.querySelector(".rail [aria-current]")?.scrollIntoView({ block: "nearest" });

const services = await discovered;
const names = [...new Set(services.map((service) => service.title ?? service.id))];
$("discovery").textContent = services.length
  ? `Discovery lists ${names.join(", ")}.`
  : "No decision support service answered discovery at /cds-services.";
await ask("patient-view", {}, $("patient-view"));
