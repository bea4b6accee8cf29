// Runs before the first paint: applies the theme that was chosen here, or the system's.
try {
  const chosen = localStorage.getItem('acetate:theme');
  if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage, the system's theme applies.
}
