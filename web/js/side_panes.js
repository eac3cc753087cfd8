// The History, Code and JSON panes, and the tabs above them.
import {$, announce, copyText, el, icon, reconcile, setFlag, setText, show} from './dom.js';
import {t} from './i18n.js';
import {verdictOf} from './results.js';
import {curl, grpcurl, python, reachable} from './snippets.js';

const SNIPPETS = {
  curl,
  python,
  grpcurl
};

// The WAI-ARIA tabs pattern: arrows move between tabs, only the chosen one is in the tab order.
export function wireTabs(list, onChange) {
  const tabs = [...list.querySelectorAll('[role=tab]')];
  const choose = (tab) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute('aria-selected', String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      show($(other.getAttribute('aria-controls')), chosen);
    }
    onChange();
  };
  for (const tab of tabs) tab.addEventListener('click', () => choose(tab));
  list.addEventListener('keydown', (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1}[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = tabs[(to + tabs.length) % tabs.length];
    choose(tab);
    tab.focus();
  });
  return choose;
}

// Indented, with lists of numbers on one line.
function prettyJson(value) {
  return JSON.stringify(value, null, 2)
      .replace(
          /\[\s+(-?[\d.][^[\]{}"]*?)\s+\]/g, (_, numbers) => `[${numbers.replace(/\s+/g, ' ')}]`);
}

export class SidePanes {
  // `actions`: show(turn), again(turn), problem(error).
  constructor(workspace, actions) {
    this.workspace = workspace;
    this.actions = actions;
    this.chooseTab = wireTabs(document.querySelector('.tabs'), () => workspace.changed());
    $('conversation').addEventListener('change', (event) => {
      workspace.conversation = event.target.checked;
    });
    $('new-conversation').addEventListener('click', () => {
      workspace.current?.newConversation();
      announce(t('conversationStarted'));
      workspace.changed();
    });
    for (const radio of document.getElementsByName('code'))
      radio.addEventListener('change', () => workspace.changed());
    $('code-by-id').addEventListener('change', () => workspace.changed());
    $('copy-code').addEventListener('click', () => this.#copy($('code').textContent));
    $('copy-json').addEventListener('click', () => this.#copy($('json').textContent));
    $('failure-copy')
        .addEventListener(
            'click', () => this.#copy($('failure-request').textContent.split(' ')[0]));
  }

  get turn() {
    return this.workspace.current?.shown ?? null;
  }

  async #copy(text) {
    try {
      await copyText(text);
      announce(t('copied'));
      this.actions.toast(t('copied'));
    } catch {
      this.actions.toast(t('copyFailed'));
    }
  }

  render() {
    const turns = [...(this.workspace.current?.turns ?? [])].reverse();
    setText($('history-count'), turns.length ? String(turns.length) : '');
    $('history').dataset.empty = t('historyEmpty');
    reconcile(
        $('history'), turns, (turn) => turn.id, (turn) => this.#historyRow(turn),
        (row, turn, i) => this.#updateHistory(row, turn, turns[i + 1]));
    if (!$('pane-code').hidden) this.#renderCode();
    if (!$('pane-json').hidden) this.#renderJson();
  }

  #historyRow(turn) {
    return el(
        'li', {class: 'turn'},
        el('button', {type: 'button', class: 'turn-main', onclick: () => this.actions.show(turn)},
           el('span', {class: 'turn-prompt'}), el('span', {class: 'turn-outcome'})),
        el('button',
           {type: 'button', class: 'quiet turn-again', onclick: () => this.actions.again(turn)},
           icon('again')));
  }

  #updateHistory(row, turn, earlier) {
    const shown = turn === this.turn;
    row.classList.toggle('begins', Boolean(earlier) && earlier.session !== turn.session);
    row.classList.toggle('shown', shown);
    setFlag(row.firstChild, 'aria-current', shown ? 'true' : null);
    setText(row.querySelector('.turn-prompt'), turn.prompt);
    const outcome = turn.running ? '…' : verdictOf(turn);
    setText(
        row.querySelector('.turn-outcome'),
        turn.region ? `${outcome} · ${t('historyRegion')}` : outcome);
    row.lastChild.setAttribute('aria-label', t('askAgain', {prompt: turn.prompt}));
    row.lastChild.title = t('askAgain', {prompt: turn.prompt});
  }

  #renderCode() {
    const {turn, workspace} = this;
    setText($('code-hint'), t(turn ? 'codeHint' : 'codeEmpty'));
    $('copy-code').disabled = !turn;
    if (!turn) return setText($('code'), '');
    const target = workspace.current.targetOf(turn.region);
    // What was cut out of an image is a file that only the server and this page have.
    const byId = $('code-by-id');
    byId.disabled = !target.imageId || Boolean(turn.region);
    const kind = [...document.getElementsByName('code')].find((radio) => radio.checked).value;
    return setText($('code'), SNIPPETS[kind]({
                     url: new URL('.', location.href).href,
                     grpcAddress: reachable(workspace.config.grpc_address, location.hostname),
                     fileName: target.name,
                     imageId: target.imageId && (byId.checked || turn.region) ? target.imageId : '',
                     fields: turn.fields,
                   }));
  }

  #renderJson() {
    const {turn} = this;
    const answer = turn?.answer ?? null;
    $('copy-json').disabled = !answer;
    setText($('json-hint'), t(!answer ? 'jsonEmpty' : turn.region ? 'jsonRegion' : 'jsonHint'));
    setText($('json'), answer ? prettyJson(answer) : '');
  }
}
