// One card as an EHR shows it: what, why, what to do about it, and a way to say no.

import { markdown } from "./markdown.js";

const ORDER = { critical: 0, warning: 1, info: 2 };
const NAMES = { critical: "Critical", warning: "Warning", info: "For information" };
const SHAPES = {
  critical: "M8 2h8l6 6v8l-6 6H8l-6-6V8z M12 7v6 M12 16.5v.5",
  warning: "M12 3 22 20.5H2z M12 9.5v5 M12 17v.5",
  info: "M12 2a10 10 0 1 0 .01 0z M12 11v6 M12 7v.5",
};

export const byUrgency = (a, b) => ORDER[a.card.indicator] - ORDER[b.card.indicator];

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && name !== "form") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function icon(indicator) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[indicator]);
  svg.append(path);
  return svg;
}

// `answer` is told what the clinician did: accept(suggestion) or override(reason, comment).
export function showCard(card, answer) {
  const indicator = card.indicator in ORDER ? card.indicator : "info";
  const node = el("article", { class: `card ${indicator}` });
  const done = el("p", { class: "done", hidden: true, role: "status" });
  node.append(
    el("header", {}, icon(indicator), el("span", { class: "tier" }, NAMES[indicator]),
      card.source.topic?.display ? el("span", { class: "topic" }, card.source.topic.display) : null),
    el("h3", {}, card.summary),
  );
  if (card.detail) node.append(el("div", { class: "detail" }, markdown(card.detail)));
  const taken = [];
  const buttons = suggestions(card, (suggestion, button) => {
    taken.push(suggestion.label);
    button.disabled = true;
    button.classList.add("taken");
    if (card.selectionBehavior !== "any") for (const other of buttons.children) other.disabled = true;
    settle(node, done, `Accepted: ${taken.join("; ")}`, card.selectionBehavior !== "any");
    answer.accept(suggestion);
  });
  if (buttons.children.length) node.append(buttons);
  const links = (card.links ?? []).map(linkTo).filter(Boolean);
  if (links.length) node.append(el("p", { class: "links" }, ...links));
  node.append(source(card.source));
  node.append(override(card, (reason, comment) => {
    settle(node, done, reason ? `Dismissed: ${reason.display}` : "Dismissed", true);
    answer.override(reason, comment);
  }), done);
  return node;
}

function source(from) {
  const linked = /^https?:\/\//i.test(from.url ?? "");
  const label = linked ? el("a", { href: from.url, target: "_blank", rel: "noopener noreferrer" }, from.label) : from.label;
  return el("p", { class: "source" }, "Source: ", label);
}

function suggestions(card, take) {
  const box = el("div", { class: "suggestions" });
  for (const suggestion of card.suggestions ?? []) {
    const button = el("button", { type: "button", onclick: () => take(suggestion, button) }, suggestion.label);
    if (suggestion.isRecommended) {
      button.classList.add("recommended");
      button.append(el("span", { class: "badge" }, "recommended"));
    }
    button.title = (suggestion.actions ?? []).map((action) => action.description).join("; ");
    box.append(button);
  }
  return box;
}

function linkTo(link) {
  if (!/^https?:\/\//i.test(link.url ?? "")) return null;
  const label = link.type === "smart" ? `${link.label} (app)` : link.label;
  return el("a", { href: link.url, target: "_blank", rel: "noopener noreferrer" }, label);
}

function override(card, dismiss) {
  const reasons = card.overrideReasons ?? [];
  const choose = el("select", { "aria-label": "Reason for dismissing" });
  choose.append(el("option", { value: "" }, reasons.length ? "Choose a reason" : "No reason needed"));
  reasons.forEach((reason, index) => choose.append(el("option", { value: String(index) }, reason.display)));
  const comment = el("input", { type: "text", placeholder: "Comment (optional)", "aria-label": "Comment", maxLength: 500 });
  const confirm = el("button", { type: "button", onclick: () => {
    const reason = choose.value === "" ? null : reasons[Number(choose.value)];
    if (card.indicator === "critical" && reasons.length && !reason) {
      choose.setCustomValidity("A critical card needs a reason");
      choose.reportValidity();
      return;
    }
    dismiss(reason, comment.value.trim());
  } }, "Dismiss");
  choose.addEventListener("change", () => choose.setCustomValidity(""));
  return el("details", { class: "override" }, el("summary", {}, "Dismiss"), el("div", {}, choose, comment, confirm));
}

function settle(node, done, words, closed) {
  done.textContent = words;
  done.hidden = false;
  if (closed) node.classList.add("settled");
}
