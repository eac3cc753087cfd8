// The prompt: text, examples, boxes or points, the region it is about.
import {$, el, reconcile, setText, show} from './dom.js';
import {language, t} from './i18n.js';

const byteLength = (text) => new TextEncoder().encode(text).length;

// The beginnings by which the server recognises a request for points.
const POINT_BEGINNINGS = ['point to ', 'point at ', '以点的形式', '用点标', '指向'];

// What is sent in point mode.
export function pointPrompt(prompt) {
  const text = prompt.toLowerCase();
  if (POINT_BEGINNINGS.some((beginning) => text.startsWith(beginning))) return prompt;
  return /[\u4e00-\u9fff]/.test(prompt) ? `以点的形式找出${prompt}` : `point to ${prompt}`;
}

// The classes of a prompt in class mode. Quotes are not taken, so that a list of quoted names
// works.
export function classLabels(prompt) {
  const names = prompt.split(/[,;，、；\n]/).map((name) => name.replaceAll('"', '').trim());
  const seen = new Set();
  return names.filter((name) => {
    const key = name.toLowerCase().replace(/^(the|an?)\s+/, '').replace(/\s+/g, ' ');
    return key && !seen.has(key) && seen.add(key);
  });
}

const MAX_LABELS = 64;
const MAX_LABEL_BYTES = 128;

export class Composer {
  // `actions`: ask(prompt), cancel(), clearRegion().
  constructor(workspace, actions) {
    this.workspace = workspace;
    this.actions = actions;
    this.prompt = $('prompt');
    $('form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.submit();
    });
    this.prompt.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit();
    });
    this.prompt.addEventListener('input', () => {
      this.#grow();
      setText($('prompt-note'), '');
    });
    $('cancel').addEventListener('click', () => actions.cancel());
    $('region-chip').addEventListener('click', () => actions.clearRegion());
    for (const radio of document.getElementsByName('mode')) {
      radio.addEventListener('change', () => {
        workspace.mode = radio.value;
        workspace.changed();
      });
    }
  }

  set text(value) {
    this.prompt.value = value;
    this.#grow();
  }

  focus() {
    this.prompt.focus();
  }

  // As high as its text, within what the style sheet allows.
  #grow() {
    this.prompt.style.height = 'auto';
    this.prompt.style.height = `${this.prompt.scrollHeight}px`;
  }

  // The prompt when it can be asked, else null, and the reason beside it.
  ready() {
    const prompt = this.prompt.value.trim();
    const limit = this.workspace.config.limits.prompt_bytes;
    let note = '';
    if (!prompt)
      note = t('promptMissing');
    else if (byteLength(prompt) > limit)
      note = t('promptTooLong', {limit});
    else if (this.workspace.mode === 'classes')
      note = this.#classNote(prompt);
    if (!note && !this.workspace.current) note = t('imageMissing');
    setText($('prompt-note'), note);
    this.prompt.toggleAttribute('aria-invalid', Boolean(note));
    if (note) this.focus();
    return note ? null : prompt;
  }

  #classNote(prompt) {
    const labels = classLabels(prompt);
    if (!labels.length) return t('promptMissing');
    if (labels.length > MAX_LABELS) return t('tooManyClasses', {limit: MAX_LABELS});
    const long = labels.find((label) => byteLength(label) > MAX_LABEL_BYTES);
    return long ? t('classTooLong', {label: long}) : '';
  }

  submit() {
    if (this.workspace.running) return;
    const prompt = this.ready();
    if (!prompt) return;
    if (matchMedia('(pointer: coarse)').matches)
      this.prompt.blur();  // the screen keyboard goes away
    this.actions.ask(prompt);
  }

  say(note) {
    setText($('prompt-note'), note);
  }

  render() {
    const {current, running, region} = this.workspace;
    const classes = this.workspace.mode === 'classes';
    const length = matchMedia('(max-width: 640px)').matches ? 'Short' : '';
    this.prompt.placeholder =
        t(classes ? `classesPlaceholder${length}` : `promptPlaceholder${length}`);
    this.#swap(Boolean(running));
    const chip = $('region-chip');
    show(chip, Boolean(region));
    if (region) {
      const text = t('regionOnly', {width: region[2] - region[0], height: region[3] - region[1]});
      setText(chip.firstChild, text);
      chip.setAttribute('aria-label', t('regionRemove', {text}));
    }
    const suited = current?.suggestions?.[classes ? 'classes' : 'prompts'];
    const examples = suited?.[language()] ?? t(classes ? 'classExamples' : 'examples');
    reconcile(
        $('suggestions'), examples, (text) => text, (text) => this.#suggestion(text), () => {});
  }

  // Find and Cancel replace each other; the focus moves with them.
  #swap(running) {
    const [from, to] = running ? [$('ask'), $('cancel')] : [$('cancel'), $('ask')];
    if (from.hidden) return;
    const focused = document.activeElement === from;
    show(to, true);
    show(from, false);
    if (focused) to.focus();
  }

  #suggestion(text) {
    const use = () => {
      this.text = text;
      if (this.workspace.current)
        this.submit();
      else
        this.focus();
    };
    return el('button', {type: 'button', class: 'chip', onclick: use}, text);
  }
}

// The tips cover the image while they are open: Esc and a click elsewhere close them.
export function wireTips() {
  const tips = $('tips');
  document.addEventListener('click', (event) => {
    if (!tips.contains(event.target)) tips.open = false;
  });
  tips.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !tips.open) return;
    event.stopPropagation();
    tips.open = false;
    tips.firstElementChild.focus();
  });
}

export function renderTips() {
  reconcile(
      $('tips-list'), t('tips'), (_, index) => index,
      () => el('li', {}, el('strong'), ' ', el('span')), (node, [rule, example]) => {
        setText(node.firstChild, rule);
        setText(node.lastChild, example);
      });
}
