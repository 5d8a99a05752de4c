// GitHub-flavoured Markdown as cards use it, turned into DOM nodes. Nothing is ever parsed as HTML: text from a
// record stays text, whatever is in it, and only http(s) addresses become links.

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };
const INLINE = /(\\[\\`*_{}[\]()#+\-.!|~$<>&"':;,/?@^=%])|(&(?:amp|lt|gt|quot|#39);)|(`[^`]+`)|(\*\*(?=\S)[\s\S]+?\*\*)|(\*(?=\S)[^*]+?\*)|(?<!\w)(_(?=\S)[^_]+?_)(?!\w)|(\[[^\]]+\]\([^)\s]+\))/;

export function markdown(text) {
  const fragment = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) i += 1;
    else if (isTable(lines, i)) i = table(lines, i, fragment);
    else if (/^\s*([-*+]|\d+[.)])\s/.test(lines[i])) i = list(lines, i, fragment);
    else i = paragraph(lines, i, fragment);
  }
  return fragment;
}

function isTable(lines, i) {
  return lines[i].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[i + 1] ?? "");
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function table(lines, start, parent) {
  const node = document.createElement("table");
  const head = node.createTHead().insertRow();
  for (const cell of cells(lines[start])) {
    const th = document.createElement("th");
    th.scope = "col";
    th.append(inline(cell));
    head.append(th);
  }
  const body = node.createTBody();
  let i = start + 2;
  for (; i < lines.length && lines[i].includes("|") && lines[i].trim(); i += 1) {
    const row = body.insertRow();
    for (const cell of cells(lines[i])) row.insertCell().append(inline(cell));
  }
  const scroller = document.createElement("div");
  scroller.className = "table-scroll";
  scroller.append(node);
  parent.append(scroller);
  return i;
}

function list(lines, start, parent) {
  const node = document.createElement(/^\s*\d/.test(lines[start]) ? "ol" : "ul");
  let i = start;
  for (; i < lines.length && /^\s*([-*+]|\d+[.)])\s/.test(lines[i]); i += 1) {
    const item = document.createElement("li");
    item.append(inline(lines[i].replace(/^\s*([-*+]|\d+[.)])\s+/, "")));
    node.append(item);
  }
  parent.append(node);
  return i;
}

function paragraph(lines, start, parent) {
  const node = document.createElement("p");
  let i = start;
  for (; i < lines.length && lines[i].trim() && !isTable(lines, i); i += 1) {
    if (i > start) node.append(document.createElement("br"));
    node.append(inline(lines[i].replace(/^#{1,6}\s+/, "")));
  }
  parent.append(node);
  return i;
}

function inline(text) {
  const fragment = document.createDocumentFragment();
  let rest = text;
  for (let match; (match = INLINE.exec(rest)); rest = rest.slice(match.index + match[0].length)) {
    fragment.append(...words(rest.slice(0, match.index)), marked(match));
  }
  fragment.append(...words(rest));
  return fragment;
}

// A date broken at its hyphens is hard to read in a narrow table.
function words(text) {
  return text.split(/(\d{4}-\d{2}-\d{2})/).map((part, index) => {
    if (index % 2 === 0) return part;
    const date = wrapped("span", document.createTextNode(part));
    date.className = "nowrap";
    return date;
  });
}

function marked([whole, escape, entity, code, strong, star, underscore, link]) {
  if (escape) return escape[1];
  if (entity) return ENTITIES[entity];
  if (code) return wrapped("code", document.createTextNode(code.slice(1, -1)));
  if (strong) return wrapped("strong", inline(strong.slice(2, -2)));
  if (star || underscore) return wrapped("em", inline((star || underscore).slice(1, -1)));
  const [, label, address] = /^\[([^\]]+)\]\(([^)\s]+)\)$/.exec(link);
  if (!/^https?:\/\//i.test(address)) return whole;
  const anchor = wrapped("a", inline(label));
  anchor.href = address;
  anchor.rel = "noopener noreferrer";
  anchor.target = "_blank";
  return anchor;
}

function wrapped(tag, content) {
  const node = document.createElement(tag);
  node.append(content);
  return node;
}
