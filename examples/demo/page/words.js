// words.js - what a device says about its state. Whatever is wrong, it also says what isn't sent yet.

/**
 * @param {{ unsent: number, setAside: number, error: any }} status of the collection
 * @param {boolean} isOnline
 * @returns {{ state: 'offline' | 'trouble' | 'sending' | 'sent', text: string }}
 */
export function describe({ unsent, setAside, error }, isOnline) {
	const waiting = unsent === 0 ? 'Nothing waits to be sent.' : `${changes(unsent)} not sent yet, kept here.`;
	const refused = setAside === 0 ? '' : ` ${changes(setAside)} refused.`;

	if (!isOnline) return { state: 'offline', text: `Offline. ${waiting}${refused}` };
	if (error) return { state: 'trouble', text: `${reason(error)} ${waiting}${refused}` };
	if (unsent > 0) return { state: 'sending', text: `${changes(unsent)} not sent yet.${refused}` };
	return { state: 'sent', text: `Everything is sent.${refused}` };
}

function changes(number) {
	return number === 1 ? '1 change' : `${number} changes`;
}

/** Why a sync failed. */
function reason(error) {
	if (error.name === 'NoAnswer') return 'The service does not answer.';
	if (error.name === 'BadAnswer' || error.name === 'Refused' && !error.code && error.status < 500) {
		return 'Something else answers in place of the service: does this network want you to sign in?';
	}
	if (error.name !== 'Refused') return `This browser cannot store notes: ${error.message}.`;
	if (error.status === 401) return 'The service does not accept the token, which may have expired: open the address with a new one.';
	if (error.status >= 500) return `The service has a problem (${error.status}).`;
	return `The service refuses: ${error.text}.`;
}
