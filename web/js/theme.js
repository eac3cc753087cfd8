// Light, dark or as the system has it. The choice is kept.
const STORED = 'chord.theme';
const THEMES = ['auto', 'light', 'dark'];
const ICONS = {
  auto: 'auto',
  light: 'sun',
  dark: 'moon'
};

let current = 'auto';

export const themeLabel = () =>
    ({auto: 'themeAuto', light: 'themeLight', dark: 'themeDark'})[current];

function apply() {
  if (current === 'auto')
    delete document.documentElement.dataset.theme;
  else
    document.documentElement.dataset.theme = current;
  document.querySelector('#theme use').setAttribute('href', `#i-${ICONS[current]}`);
}

export function initTheme() {
  try {
    const stored = localStorage.getItem(STORED);
    if (THEMES.includes(stored)) current = stored;
  } catch {
    // Storage is switched off; the choice then lasts as long as the page.
  }
  apply();
}

export function nextTheme() {
  current = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  try {
    localStorage.setItem(STORED, current);
  } catch {
    // See above.
  }
  apply();
}
