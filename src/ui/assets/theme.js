// Before anything is painted: the theme that was chosen here, or the system's.
try {
  const chosen = localStorage.getItem('acetate:theme');
  if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be off; the system's theme it is.
}
