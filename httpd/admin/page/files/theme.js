// The theme, before anything is painted: light, dark, or the system's if there is none.
'use strict';
try {
	const theme = localStorage.getItem('webknock-theme');
	if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch { /* storage is blocked: the system's */ }
