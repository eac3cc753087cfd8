// DOM helpers. Text is always inserted as text; nothing here parses markup.

export const $ = (id) => document.getElementById(id);

// el('button', {class: 'tool', 'aria-pressed': 'true', onclick: f}, 'text', node…)
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on'))
      node.addEventListener(name.slice(2), value);
    else
      node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = 'http://www.w3.org/2000/svg';

// One of the symbols in index.html.
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

// Makes the children of `parent` those of `items`, reusing nodes by key so that focus and scrolling
// stay where they are. `update(node, item, index)` runs for new and old ones.
export function reconcile(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const key = String(keyOf(item, index));
    let node = old.get(key);
    if (node)
      old.delete(key);
    else {
      node = create(item, index);
      node.dataset.key = key;
    }
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
    update(node, item, index);
  });
  for (const node of old.values()) node.remove();
}

// Sets text only where it differs: a live region that is written again is read again.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Sets an attribute, or removes it where `value` is null.
export function setFlag(node, name, value) {
  if (value === null)
    node.removeAttribute(name);
  else
    node.setAttribute(name, value);
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

export function announce(text) {
  setText($('announcer'), text);
}

export function download(blob, name) {
  const link = el('a', {href: URL.createObjectURL(blob), download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }

  // Plain HTTP on another host has no clipboard API.
  const area = el('textarea', {class: 'visually-hidden', 'aria-hidden': 'true'});
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  if (!copied) throw new Error('copy');
}
