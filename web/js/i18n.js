// Texts in English and Chinese. The page follows the browser's language until the user chooses.
import {english} from './messages_en.js';
import {chinese} from './messages_zh.js';

const MESSAGES = {
  en: english,
  zh: chinese
};
const STORED = 'chord.language';

function preferred() {
  try {
    const stored = localStorage.getItem(STORED);
    if (stored in MESSAGES) return stored;
  } catch {
    // Storage is switched off; the choice then lasts as long as the page.
  }
  const known = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase())
                    .find((tag) => tag in MESSAGES);
  return known ?? 'en';
}

let current = preferred();

export const language = () => current;

// The text of `key`; {name} stands for values.name. A message may be a function of the values.
export function t(key, values = {}) {
  const message = MESSAGES[current][key] ?? english[key];
  if (message === undefined) throw new Error(`no text for ${key}`);
  if (typeof message === 'function') return message(values);
  if (typeof message !== 'string') return message;  // lists and tables of texts
  return message.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// What to tell about an error: {text, requestId, code}. The server's text is the most exact
// one, but English; in Chinese the page's own text comes first.
export function explain(error) {
  const key = `error_${error.code}`;
  const own = key in MESSAGES[current];
  const text = own && (current !== 'en' || !error.detail || !error.requestId) ?
      t(key, {...error.values, detail: error.detail}) :
      error.detail || t('failed');
  const wait = error.retryAfter > 0 ? t('retryIn', {seconds: Math.ceil(error.retryAfter)}) : '';
  return {text: text + wait, requestId: error.requestId ?? '', code: error.code};
}

const ATTRIBUTES = {
  tLabel: 'aria-label',
  tTitle: 'title',
  tPlaceholder: 'placeholder'
};

// Writes the texts of all elements that name one by data-t, data-t-label, data-t-title.
export function applyTexts() {
  document.documentElement.lang = current === 'zh' ? 'zh-CN' : 'en';
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
    const selector = `[data-${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}]`;
    for (const node of document.querySelectorAll(selector))
      node.setAttribute(attribute, t(node.dataset[name]));
  }
}

export function setLanguage(code) {
  current = code;
  try {
    localStorage.setItem(STORED, code);
  } catch {
    // See above.
  }
}
