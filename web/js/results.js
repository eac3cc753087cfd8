// The Result pane: progress, verdict, filters, list of findings, downloads, times.
import {$, announce, download, el, icon, reconcile, setFlag, setText, show} from './dom.js';
import {annotatedImage, cocoJson, stem} from './export.js';
import {coordinates, describe, isReview, labelOf, percent} from './findings.js';
import {explain, t} from './i18n.js';

export class Results {
  // `actions`: hover, select, frame, edit, askInside, retry.
  constructor(workspace, actions) {
    this.workspace = workspace;
    this.actions = actions;
    $('threshold').addEventListener('input', (event) => {
      workspace.threshold = event.target.value / 100;
      workspace.changed();
    });
    $('retry').addEventListener('click', () => actions.retry());
    $('save-image').addEventListener('click', () => this.#saveImage());
    $('save-coco').addEventListener('click', () => this.#saveCoco());
  }

  get turn() {
    return this.workspace.current?.shown ?? null;
  }

  get shownFindings() {
    return this.turn?.findings.filter((finding) => this.workspace.visible(finding)) ?? [];
  }

  render() {
    const {turn, workspace} = this;
    const placeholder = !turn && !workspace.editing;
    show($('result-placeholder'), placeholder);
    setText(
        $('result-placeholder'), t(workspace.current ? 'placeholderReady' : 'placeholderEmpty'));
    show($('progress'), Boolean(turn?.running));
    show($('failure'), turn?.stage === 'failed');
    const answered = ['done', 'cancelled'].includes(turn?.stage) || turn?.findings.length > 0;
    show($('answer'), answered || Boolean(workspace.editing));
    if (turn?.running) this.#renderProgress(turn);
    if (turn?.stage === 'failed') this.#renderFailure(turn);
    this.#renderVerdict(turn);
    this.#renderFilters(turn);
    this.#renderList(turn);
    this.#renderAbsentLabels(turn);
    this.#renderTiming(turn);
    show($('exports'), turn?.stage === 'done');
    const answeredImages = this.#answeredImages().length;
    setText(
        $('save-coco').lastElementChild,
        answeredImages > 1 ? t('saveCocoAll', {n: answeredImages}) : 'COCO JSON');
  }

  #renderProgress(turn) {
    const order = ['uploading', 'looking', 'answering'];
    const at = order.indexOf(turn.stage);
    for (const [i, item] of [...$('stages').children].entries()) {
      item.classList.toggle('past', i < at);
      item.classList.toggle('now', i === at);
      setFlag(item, 'aria-current', i === at ? 'step' : null);
    }
    setText(
        $('upload-share'),
        turn.stage === 'uploading' && turn.uploaded > 0 ? percent(turn.uploaded) : '');
    setText($('found-so-far'), turn.objects.length ? t('soFar', {n: turn.objects.length}) : '');
    const bar = $('bar');
    if (turn.stage === 'uploading' && turn.uploaded > 0 && turn.uploaded < 1)
      bar.value = turn.uploaded;
    else
      bar.removeAttribute('value');  // how long looking and answering take is not known
  }

  #renderFailure(turn) {
    const {text, requestId, code} = explain(turn.error);
    setText($('failure-title'), t('failed'));
    setText($('failure-text'), text);
    show($('failure-id'), Boolean(requestId));
    setText($('failure-request'), requestId ? `${requestId} · ${code}` : code);
  }

  #renderVerdict(turn) {
    setText($('verdict'), turn ? verdictOf(turn) : '');
    const answered = turn?.stage === 'done';
    document.querySelector('.verdict').hidden = !turn || turn.running;
    show($('verdict-icon'), answered);
    $('verdict-icon').classList.toggle('absent', Boolean(turn?.absent || turn?.unknown));
    const symbol = turn?.unknown ? '#i-alert' : turn?.absent ? '#i-none' : '#i-check';
    $('verdict-icon').firstElementChild.setAttribute('href', symbol);
    setText($('verdict-detail'), turn ? detailOf(turn) : '');
    const advice = turn?.answer?.advice ?? '';
    show($('server-advice'), Boolean(advice));
    setText($('server-advice').lastElementChild, advice);
    show($('prose'), Boolean(turn?.inProse));
    setText($('prose').lastElementChild, turn?.inProse ? turn.answer.text : '');
    show($('mode-note'), Boolean(turn?.boxesInstead));
    setText($('mode-note').lastElementChild, t('noPoints'));
  }

  #renderFilters(turn) {
    const done = turn?.stage === 'done' && turn.findings.length > 0;
    show($('filters'), done);
    show($('legend'), done);
    setText(
        $('legend-review'),
        t('legendReview', {value: percent(this.workspace.config.thresholds.review)}));
    const percentNow = Math.round(100 * this.workspace.threshold);
    if ($('threshold').value !== String(percentNow)) $('threshold').value = percentNow;
    setText($('threshold-value'), `${percentNow}%`);
    $('threshold').setAttribute('aria-valuetext', `${percentNow}%`);
    if (!done) return;
    const counts = new Map();
    for (const finding of turn.findings)
      counts.set(finding.label, (counts.get(finding.label) ?? 0) + 1);
    show($('classes'), counts.size > 1);
    reconcile(
        $('classes'), [...counts], ([label]) => label, ([label]) => this.#classChip(label),
        (chip, [label, n]) => {
          chip.setAttribute('aria-pressed', String(!this.workspace.hiddenLabels.has(label)));
          chip.setAttribute('aria-label', t('classShown', {label: labelOf({label}), n}));
          setText(chip.firstChild, labelOf({label}));
          setText(chip.lastChild, String(n));
        });
  }

  #classChip(label) {
    const {hiddenLabels} = this.workspace;
    const toggle = () => {
      if (!hiddenLabels.delete(label)) hiddenLabels.add(label);
      this.workspace.changed();
    };
    return el(
        'button', {type: 'button', class: 'chip toggle', onclick: toggle}, el('span'),
        el('span', {class: 'count'}));
  }

  #renderList(turn) {
    const shown = this.shownFindings;
    reconcile(
        $('findings'), shown, (finding) => turn.findings.indexOf(finding), () => this.#row(),
        (row, finding) => this.#updateRow(row, finding, turn.findings.indexOf(finding)));
    const hidden = (turn?.findings.length ?? 0) - shown.length;
    show($('hidden-note'), hidden > 0);
    setText($('hidden-note'), hidden > 0 ? t('hiddenNote', {n: hidden}) : '');
  }

  #renderAbsentLabels(turn) {
    const labels = turn?.stage === 'done' && turn.findings.length > 0 ? turn.absentLabels : [];
    show($('absent-labels'), labels.length > 0);
    reconcile(
        $('absent-labels'), labels, ({label}) => label,
        () =>
            el('li', {}, icon('none'), el('span', {class: 'absent-label'}),
               el('span', {class: 'muted'})),
        (row, {label, confidence}) => {
          const known = typeof confidence === 'number';
          setText(row.children[1], label);
          setText(
              row.lastChild,
              known ? t('labelAbsent', {value: percent(confidence)}) : t('labelUnknown'));
        });
  }

  #row() {
    const row = el('li', {class: 'finding'});
    const {actions} = this;
    const part = (name, ...children) => el('span', {class: name}, ...children);
    const select = () => actions.select(row.finding);
    const bar = el('span', {class: 'finding-bar', 'aria-hidden': 'true'}, el('span'));
    const main =
        el('button', {type: 'button', class: 'finding-main', onclick: select},
           part('finding-number'), part('finding-label'), part('tag edited'), part('tag review'),
           part('finding-confidence'), bar, part('finding-place'));
    const tool = (name, symbol, act) => {
      const attributes = {type: 'button', class: 'quiet', 'data-tool': name};
      return el(
          'button', {...attributes, onclick: () => act(row.finding)}, icon(symbol), el('span'));
    };
    const tools = el('div', {class: 'finding-tools'});
    tools.append(
        tool('zoomToIt', 'zoom', actions.frame), tool('editBox', 'edit', actions.edit),
        tool('askInside', 'search', actions.askInside));
    row.append(main, tools);
    row.addEventListener('pointerenter', () => actions.hover(row.finding));
    row.addEventListener('pointerleave', () => actions.hover(null));
    row.addEventListener('focusin', () => actions.hover(row.finding));
    row.addEventListener('focusout', () => actions.hover(null));
    return row;
  }

  #updateRow(row, finding, index) {
    row.finding = finding;
    const selected = this.workspace.current.selected === finding;
    const part = (name) => row.querySelector(name);
    row.classList.toggle('review', isReview(finding));
    row.classList.toggle('active', this.workspace.hovered === finding);
    row.classList.toggle('selected', selected);
    part('.finding-main').setAttribute('aria-expanded', String(selected));
    setText(part('.finding-number'), String(index + 1));
    setText(part('.finding-label'), labelOf(finding));
    const known = typeof finding.confidence === 'number';
    setText(part('.finding-confidence'), known ? percent(finding.confidence) : '');
    part('.finding-bar').hidden = !known;
    part('.finding-bar').firstChild.style.width = known ? `${100 * finding.confidence}%` : '0';
    setText(part('.finding-place'), coordinates(finding));
    setText(part('.tag.review'), isReview(finding) ? t('needsReview') : '');
    setText(part('.tag.edited'), finding.edited ? t('edited') : '');
    show(part('.finding-tools'), selected && this.turn.stage === 'done');
    for (const tool of row.querySelectorAll('[data-tool]')) {
      setText(tool.lastElementChild, t(tool.dataset.tool));
      show(tool, Boolean(finding.box));
    }
  }

  // Brings the row of a finding that was selected in the image into view.
  reveal(finding) {
    const row = [...$('findings').children].find((node) => node.finding === finding);
    row?.scrollIntoView({block: 'nearest'});
  }

  #renderTiming(turn) {
    show($('timing'), turn?.stage === 'done');
    if (turn?.stage !== 'done') return;
    const {timing, usage} = turn.answer;
    const stages = stagesOf(turn);
    const sum = stages.reduce((total, [, ms]) => total + ms, 0) || 1;
    reconcile(
        $('timing-bar'), stages, ([name]) => name, ([name]) => el('span', {class: `time-${name}`}),
        (node, [, ms]) => {
          node.style.width = `${100 * ms / sum}%`;
        });
    const rows = [...stages, ['total', timing.total_ms]];
    reconcile(
        $('timing-list'), rows, ([name]) => name,
        ([name]) => el('div', {class: `time-${name}`}, el('dt'), el('dd')), (node, [name, ms]) => {
          const note = name === 'prefill' ? t('cacheNote')[usage.cache] : '';
          setText(node.firstChild, t(`time_${name}`) + (note ? ` · ${note}` : ''));
          setText(node.lastChild, milliseconds(ms));
        });
  }

  async #saveImage() {
    const {current, labels} = this.workspace;
    try {
      const {blob, reduced} = await annotatedImage(current.source, this.shownFindings, labels);
      download(blob, `${stem(current.source.name)}_boxes.png`);
      if (reduced) announce(t('imageReduced'));
    } catch (error) {
      this.actions.problem(error);
    }
  }

  #answeredImages() {
    return this.workspace.images.filter((entry) => entry.shown?.stage === 'done');
  }

  #saveCoco() {
    const {workspace} = this;
    const kept = (entry) => entry.shown.findings.filter(
        (finding) => entry === workspace.current ? workspace.visible(finding) :
                                                   finding.confidence >= workspace.threshold);
    const items = this.#answeredImages().map(
        (entry) => ({source: entry.source, turn: entry.shown, findings: kept(entry)}));
    const name = items.length > 1 ? 'images' : stem(items[0].source.name);
    download(
        new Blob([JSON.stringify(cocoJson(items), null, 1)], {type: 'application/json'}),
        `${name}_coco.json`);
  }
}

export function milliseconds(ms) {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` :
                        `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`;
}

// [name, ms] of what followed each other; together the time the user waited for the server.
function stagesOf(turn) {
  const {timing} = turn.answer;
  const named =
      ['queue', 'vision', 'prefill', 'decode'].map((name) => [name, timing[`${name}_ms`]]);
  const other = timing.total_ms - named.reduce((sum, [, ms]) => sum + ms, 0);
  const stages = [['upload', turn.uploadMs], ...named, ['other', Math.max(0, other)]];
  return stages.filter(([name, ms]) => ms >= 1 || name === 'decode');
}

export function verdictOf(turn) {
  if (turn.stage === 'failed') return t('failed');
  if (turn.stage === 'cancelled') return t('cancelled');
  if (turn.inProse) return t('noBoxes');
  if (turn.unknown) return t('cutBeforeFirst');
  if (turn.absent) return t(turn.region ? 'absentRegion' : 'absent');
  if (turn.points.length && !turn.objects.length) return t('foundPoints', {n: turn.points.length});
  return t('found', {n: turn.findings.length});
}

function detailOf(turn) {
  if (turn.stage !== 'done') return '';
  const {confidence} = turn.answer;
  const parts = [];
  if (!turn.inProse && typeof confidence === 'number') {
    const value = percent(confidence);
    parts.push(t(turn.absent ? 'absentConfidence' : 'confidenceIs', {value}));
  }
  if (turn.answer.finish_reason === 'length') parts.push(t('cutOff'));
  parts.push(milliseconds(turn.totalMs));
  return parts.join(' · ');
}

// What a screen reader says when a request ends.
export function spoken(turn) {
  if (turn.stage === 'failed') return explain(turn.error).text;
  const list = turn.findings.slice(0, 5).map(describe).join(', ');
  const absent = turn.absentLabels.length && turn.findings.length ?
      t('labelsAbsent', {labels: turn.absentLabels.map(({label}) => label).join(', ')}) :
      '';
  return [verdictOf(turn), detailOf(turn), list, absent].filter(Boolean).join('. ');
}
